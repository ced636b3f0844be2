"""Which kernels a job gets, and that it keeps them."""

from __future__ import annotations

import msgspec
import pytest
import torch

from events.settings import LoraSettings
from events.values import KERNELS
from gpu.kernels.choose import ALL, LORA, LOSS, install_kernels, wanted_kernels
from gpu.model.build import build
from gpu.runtime.determinism import environment
from tests.gpu.helpers import FULL, Home, settings

CPU = torch.device("cpu")
PLAIN = settings()
PLAIN = msgspec.structs.replace(PLAIN, training=msgspec.structs.replace(PLAIN.training, kernels="plain"))


def test_a_new_job_gets_all_unless_the_settings_say_plain() -> None:
    assert wanted_kernels(settings(), {}, CPU) == ALL
    assert wanted_kernels(PLAIN, {}, CPU) == frozenset()


def test_a_job_keeps_what_it_began_with_whatever_the_settings_say_now() -> None:
    before = environment(CPU)
    assert wanted_kernels(settings(), before, CPU) == frozenset()  # an older keepstep recorded no kernels
    assert wanted_kernels(PLAIN, {**before, KERNELS: f"{LORA} {LOSS}"}, CPU) == {LORA, LOSS}
    assert wanted_kernels(settings(), {**before, KERNELS: "plain"}, CPU) == frozenset()


def test_on_another_processor_the_settings_decide_again() -> None:
    elsewhere = {**environment(CPU), "cpu": "another", KERNELS: LORA}
    assert wanted_kernels(settings(), elsewhere, CPU) == ALL


@pytest.mark.parametrize(
    ("method", "names"),
    [(LoraSettings(), {LORA, LOSS}), (LoraSettings(use_dora=True), {LOSS}), (FULL, {LOSS})],
    ids=["lora", "dora", "full"],
)
def test_the_model_names_those_that_fit(home: Home, method: LoraSettings, names: set[str]) -> None:
    trained = build(settings(method), home.path, CPU)
    install_kernels(trained, frozenset({LORA, LOSS}))
    assert trained.kernels == " ".join(sorted(names))
    assert (trained.head is not None) == (LOSS in names)


def test_without_kernels_the_model_is_that_of_peft(home: Home) -> None:
    trained = build(settings(), home.path, CPU)
    install_kernels(trained, frozenset())
    assert (trained.kernels, trained.head) == ("plain", None)
