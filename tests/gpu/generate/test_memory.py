"""Which device answers, and when a model is refused for lack of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from events.generation import MemoryBudget
from events.settings import FullSettings, JobSettings, ModelSettings, QloraSettings
from gpu.generate.memory import GPU_LIBRARIES_BYTES, WORKING_BYTES, MemoryShort, choose_device, needed_bytes

GB = 10**9
SETTINGS = JobSettings(model=ModelSettings(path="model"))
PLENTY = MemoryBudget(free_bytes=8 * GB)


def test_needed_memory_follows_the_dtype_of_training(model_directory: Path) -> None:
    half = JobSettings(model=ModelSettings(path="model", dtype="bfloat16"))
    quantized = JobSettings(model=ModelSettings(path="model"), method=QloraSettings())
    whole = JobSettings(model=ModelSettings(path="model", dtype="bfloat16"), method=FullSettings())
    held = {
        name: needed_bytes(model_directory, how) - WORKING_BYTES
        for name, how in {"half": half, "float": SETTINGS, "quantized": quantized, "whole": whole}.items()
    }
    assert held["float"] == held["whole"] == 2 * held["half"] > held["quantized"] > 0


def test_cpu_answers_where_there_is_no_gpu(model_directory: Path) -> None:
    assert choose_device("auto", model_directory, SETTINGS, PLENTY, lambda: False) == ("cpu", ())


def test_gpu_answers_if_its_memory_is_enough(model_directory: Path) -> None:
    budget = MemoryBudget(free_bytes=8 * GB, gpu_free_bytes=20 * GB, gpu_total_bytes=24 * GB)
    assert choose_device("auto", model_directory, SETTINGS, budget, lambda: True).device == "cuda"


def test_memory_that_training_may_need_stays_free(model_directory: Path) -> None:
    """The same free memory is enough without a daemon, and too little next to one."""
    free = {"free_bytes": 8 * GB, "gpu_free_bytes": 4 * GB, "gpu_total_bytes": 24 * GB}
    assert choose_device("auto", model_directory, SETTINGS, MemoryBudget(**free), lambda: True).device == "cuda"
    next_to = choose_device("auto", model_directory, SETTINGS, MemoryBudget(**free, daemon_runs=True), lambda: True)
    assert next_to.device == "cpu"
    assert "6.0 GB stay free for the training" in next_to.notes[0]


def test_gpu_of_unknown_memory_is_left_to_training(model_directory: Path) -> None:
    assert choose_device("auto", model_directory, SETTINGS, PLENTY, lambda: True).device == "cuda"
    budget = MemoryBudget(free_bytes=8 * GB, daemon_runs=True)
    assert choose_device("auto", model_directory, SETTINGS, budget, lambda: True).device == "cpu"


@pytest.mark.parametrize("has_gpu", [True, False])
def test_gpu_that_is_asked_for_and_cannot_be_used_is_refused(model_directory: Path, has_gpu: bool) -> None:
    budget = MemoryBudget(free_bytes=8 * GB, gpu_free_bytes=GPU_LIBRARIES_BYTES, gpu_total_bytes=24 * GB)
    with pytest.raises(MemoryShort, match="the GPU cannot be used") as caught:
        choose_device("cuda", model_directory, SETTINGS, budget, lambda: has_gpu)
    assert "--device cpu" in caught.value.advice


def test_too_little_memory_is_refused_before_anything_is_loaded(model_directory: Path) -> None:
    with pytest.raises(MemoryShort, match=r"needs 0\.3 GB of memory, and 0\.1 GB may be taken") as caught:
        choose_device("cpu", model_directory, SETTINGS, MemoryBudget(free_bytes=GB // 10))
    assert caught.value.advice == "close other programs"


def test_worker_that_has_not_loaded_its_model_yet_is_counted(model_directory: Path) -> None:
    needed = needed_bytes(model_directory, SETTINGS)
    loaded = MemoryBudget(free_bytes=needed, worker_bytes=needed, daemon_runs=True)
    assert choose_device("cpu", model_directory, SETTINGS, loaded).device == "cpu"
    with pytest.raises(MemoryShort, match="next to the training") as caught:
        choose_device("cpu", model_directory, SETTINGS, MemoryBudget(free_bytes=needed, daemon_runs=True))
    assert "keepstep stop" in caught.value.advice
