"""The settings of a new home fit the model and the machine, and the reasons are said."""

from __future__ import annotations

import pytest

from cli.config.fit import Fitted, Weights, fit, memory_bytes
from cli.config.schema import Config
from cli.machine.detect import Gpu, Machine
from events.settings import (
    DataSettings,
    FullSettings,
    LoraSettings,
    ModelSettings,
    QloraSettings,
)
from gpu.model.size import ModelSize

GB = 10**9
SMALL = ModelSize(parameters=135_000_000, width=576, layers=30, vocabulary=49_152, positions=2048)
SEVEN = ModelSize(parameters=7_600_000_000, width=3584, layers=28, vocabulary=152_064, positions=32_768)
SEVENTY = ModelSize(parameters=70_600_000_000, width=8192, layers=80, vocabulary=128_256, positions=131_072)

LAPTOP = Machine(cores=8, memory_bytes=16 * GB)
H100 = Machine(cores=16, memory_bytes=128 * GB, gpu=Gpu("NVIDIA H100", 85 * GB, 9.0), has_bitsandbytes=True)
RTX = Machine(cores=16, memory_bytes=64 * GB, gpu=Gpu("NVIDIA GeForce RTX 3060", 12 * GB, 8.6), has_bitsandbytes=True)
T4 = Machine(cores=4, memory_bytes=16 * GB, gpu=Gpu("Tesla T4", 16 * GB, 7.5))


def fitted(size: ModelSize | None, machine: Machine, method: str = "") -> Fitted:
    return fit(ModelSettings(path="/model"), size, machine, method=method, zone="Europe/Berlin")


@pytest.mark.parametrize(
    ("size", "machine", "method", "dtype", "precision"),
    [
        (SMALL, LAPTOP, LoraSettings, "float32", "fp32"),
        (SMALL, H100, LoraSettings, "bfloat16", "bf16"),
        (SMALL, T4, LoraSettings, "float32", "fp32"),
        (SEVEN, H100, LoraSettings, "bfloat16", "bf16"),
        (SEVEN, RTX, QloraSettings, "bfloat16", "bf16"),
        (SEVEN, RTX._replace(has_bitsandbytes=False), LoraSettings, "bfloat16", "bf16"),
        (SEVEN, LAPTOP._replace(memory_bytes=32 * GB), LoraSettings, "bfloat16", "fp32"),
    ],
)
def test_method_and_type_follow_from_memory_and_what_the_device_computes(
    size: ModelSize, machine: Machine, method: type, dtype: str, precision: str
) -> None:
    """QLoRA only where a GPU and its library are there, and other weights do not fit."""
    job = fitted(size, machine).config.job
    assert (type(job.method), job.model.dtype, job.training.precision) == (method, dtype, precision)


@pytest.mark.parametrize("machine", [LAPTOP, H100, RTX, T4])
@pytest.mark.parametrize("size", [SMALL, SEVEN])
def test_step_has_as_many_rows_on_each_machine(size: ModelSize, machine: Machine) -> None:
    training = fitted(size, machine).config.job.training
    assert training.batch_size * training.gradient_accumulation == 16


def test_micro_batch_shrinks_with_the_memory() -> None:
    sizes = [
        fitted(SEVEN, H100._replace(gpu=Gpu("GPU", memory * GB, 9.0))).config.job.training.batch_size
        for memory in (160, 80, 40, 24)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


def test_estimate_is_near_what_was_measured() -> None:
    """SmolLM2-135M, LoRA r = 16, float32, 8 rows of about 100 tokens: the demo's worker needs 2 to 3 GB on a CPU."""
    job = fitted(SMALL, LAPTOP)
    assert not job.warnings
    assert 1 * GB < memory_bytes(SMALL, Weights("lora", "float32", 4.0), 800, LAPTOP) < 3 * GB


@pytest.mark.parametrize(
    ("positions", "machine", "length"),
    [(512, LAPTOP, 512), (2048, LAPTOP, 1024), (131_072, H100, 2048), (1024, H100, 1024), (0, LAPTOP, 1024)],
)
def test_examples_are_no_longer_than_the_model_was_made_for(positions: int, machine: Machine, length: int) -> None:
    size = ModelSize(parameters=10**6, width=64, layers=2, vocabulary=300, positions=positions)
    assert fitted(size, machine).config.job.data.max_length == length


def test_method_that_the_user_names_is_taken() -> None:
    full = fitted(SMALL, LAPTOP, "full").config.job
    assert (full.method, full.training.learning_rate, full.model.dtype) == (FullSettings(), 1e-5, "float32")
    qlora = fitted(SMALL, LAPTOP, "qlora")
    assert isinstance(qlora.config.job.method, QloraSettings)
    assert "pip install 'keepstep[qlora]'" in qlora.warnings[0]
    assert isinstance(fitted(SEVEN, RTX, "lora").config.job.method, LoraSettings)


def test_model_that_does_not_fit_is_named_with_both_sizes() -> None:
    assert "the weights take 141 GB, and 11 GB can be used" in fitted(SEVENTY, LAPTOP).warnings[0]
    without = fitted(SEVENTY, H100._replace(has_bitsandbytes=False)).warnings
    assert "pip install 'keepstep[qlora]'" in without[0]


def test_unknown_model_gets_the_defaults() -> None:
    job = fitted(None, LAPTOP).config.job
    assert (job.data, job.training.batch_size) == (DataSettings(), 4)


def test_new_home_has_nightly_versions_disk_limits_and_retention_and_an_old_one_does_not() -> None:
    """A key that is missing in an old file keeps its meaning: nothing is deleted or started by an upgrade."""
    new, old = fitted(SMALL, LAPTOP).config, Config(job=fitted(SMALL, LAPTOP).config.job)
    assert (new.consolidation.schedule, new.consolidation.timezone) == ("03:00", "Europe/Berlin")
    assert (new.retention.versions, new.disk.soft_gb, new.disk.hard_gb) == (10, "auto", "auto")
    assert (old.consolidation.schedule, old.retention.versions, old.disk.soft_gb, old.disk.hard_gb) == ("", 0, 0.0, 0.0)


def test_reasons_name_what_was_chosen_and_why() -> None:
    reasons = dict(fitted(SEVEN, RTX).reasons)
    assert reasons["machine"] == "NVIDIA GeForce RTX 3060, 12 GB; 16 cores, 64 GB of memory"
    assert reasons["size"] == "7.6B parameters, 4.6 GB in memory, made for 32768 tokens"
    assert reasons["method"] == "qlora on 4-bit weights: bfloat16 ones do not fit"
    assert reasons["step"].startswith("16 rows (")
    assert all(len(f"  {heading:<9} {text}") <= 80 for heading, text in reasons.items())
    assert "03:00 (Europe/Berlin)" in reasons["nightly"]
    assert "10 versions stay" in reasons["disk"]
