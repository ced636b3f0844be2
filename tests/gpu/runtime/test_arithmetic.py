"""The choice of arithmetic: by features, by measurement where they do not tell, and never twice within a job."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest
import torch
from msgspec.structs import replace

import gpu.runtime.arithmetic
from events.messages import Loaded, Prepare, Prepared, Step, Train
from events.settings import JobSettings
from events.values import ARITHMETIC, FP32_INSTEAD
from gpu.runtime.arithmetic import _seconds_per_product, bf16_is_fast, choose_arithmetic
from gpu.runtime.determinism import hardware
from tests.gpu.helpers import FULL, LORA, Home, settings
from tests.harness.tiny_model import make_rows

CPU = torch.device("cpu")
ROWS = make_rows(10)


def unasked() -> NoReturn:
    raise AssertionError("nothing is measured")


def has(monkeypatch: pytest.MonkeyPatch, support: str) -> None:
    """Let this machine have a CPU with such bfloat16 support."""
    monkeypatch.setattr(gpu.runtime.arithmetic, "bf16_support", lambda: support)
    monkeypatch.setattr(gpu.runtime.arithmetic, "_torch_uses_it", lambda: True)


@pytest.mark.parametrize(("support", "chosen"), [("native", "bf16"), ("none", FP32_INSTEAD)])
def test_features_decide_without_a_measurement(monkeypatch: pytest.MonkeyPatch, support: str, chosen: str) -> None:
    has(monkeypatch, support)
    assert choose_arithmetic("bf16", CPU, {}, unasked) == chosen
    assert choose_arithmetic("fp32", CPU, {}, unasked) == "fp32"


def test_a_torch_that_does_not_use_the_instructions_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, "native")
    monkeypatch.setattr(gpu.runtime.arithmetic, "_torch_uses_it", lambda: False)
    assert choose_arithmetic("bf16", CPU, {}, unasked) == FP32_INSTEAD


@pytest.mark.parametrize(("fast", "chosen"), [(True, "bf16"), (False, FP32_INSTEAD)])
def test_a_measurement_decides_where_features_are_unknown(
    monkeypatch: pytest.MonkeyPatch, fast: bool, chosen: str
) -> None:
    has(monkeypatch, "unclear")
    assert choose_arithmetic("bf16", CPU, {}, lambda: fast) == chosen


@pytest.mark.parametrize("recorded", ["bf16", FP32_INSTEAD])
def test_a_recorded_choice_stays_on_the_same_hardware(monkeypatch: pytest.MonkeyPatch, recorded: str) -> None:
    """Whatever a second measurement would say."""
    has(monkeypatch, "unclear")
    same = {**hardware(CPU), ARITHMETIC: recorded}
    assert choose_arithmetic("bf16", CPU, same, unasked) == recorded
    elsewhere = {**same, "cpu": "another"}
    assert choose_arithmetic("bf16", CPU, elsewhere, lambda: recorded != "bf16") != recorded


def test_fp32_that_was_asked_for_is_no_choice_about_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, "unclear")
    assert choose_arithmetic("bf16", CPU, {**hardware(CPU), ARITHMETIC: "fp32"}, lambda: True) == "bf16"


@pytest.mark.parametrize(("bf16_s", "fast"), [(0.5, True), (1.05, True), (1.5, False), (30.0, False)])
def test_bfloat16_is_fast_if_it_takes_no_longer(bf16_s: float, fast: bool) -> None:
    assert bf16_is_fast({torch.bfloat16: bf16_s, torch.float32: 1.0}.__getitem__) == fast


def test_a_product_takes_time() -> None:
    assert 0 < _seconds_per_product(torch.float32) < 1


def bf16(how: JobSettings) -> JobSettings:
    """Ask for bfloat16 in memory and in arithmetic."""
    return replace(how, model=replace(how.model, dtype="bfloat16"), training=replace(how.training, precision="bf16"))


def trained(home: Home, job: str, how: JobSettings, environment: dict[str, str], **cut: Any) -> tuple[Any, list[Any]]:
    """Train with a cold worker; what it was trained in, and what the journal would hold of each step."""
    session = home.new_session()
    home.attempts += 1
    session.prepare(Prepare(attempt=home.attempts, job=job, settings=how))
    until = home.channel.of(Prepared)[0].plan.steps_total
    order = {"global_step": 0, "step": 0, "until": until, "checkpoint": None, "carry_optimizer": True, **cut}
    session.train(Train(attempt=home.attempts, environment=environment, **order))
    return home.channel.of(Loaded)[0].environment, [(fact.loss, fact.grad_norm) for fact in home.channel.of(Step)]


@pytest.mark.parametrize("method", [LORA, FULL], ids=["lora", "full"])
def test_a_slow_cpu_computes_in_float32(home: Home, monkeypatch: pytest.MonkeyPatch, method: Any) -> None:
    """To the bits of a job that asks for that; on a fast one in bfloat16, to others."""
    job, how = home.add(ROWS), bf16(settings(method))
    has(monkeypatch, "none")
    slow, steps = trained(home, job, how, {})
    assert slow[ARITHMETIC] == FP32_INSTEAD
    plain, expected = trained(home, job, replace(how, training=replace(how.training, precision="fp32")), {})
    assert plain[ARITHMETIC] == "fp32"
    assert steps == expected
    has(monkeypatch, "native")
    fast, others = trained(home, job, how, {})
    assert fast[ARITHMETIC] == "bf16"
    assert others != steps


def test_a_resume_keeps_the_choice_and_the_bits(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the CPU would measure otherwise by then: at every step, in a worker that has nothing in memory."""
    job, how = home.add(ROWS), bf16(settings(LORA))
    for fast in (True, False):
        has(monkeypatch, "unclear")
        monkeypatch.setattr(gpu.runtime.arithmetic, "bf16_is_fast", lambda fast=fast: fast)
        begun, whole = trained(home, job, how, {})
        bits = home.bits(home.channel.facts[-1].checkpoint)
        monkeypatch.setattr(gpu.runtime.arithmetic, "bf16_is_fast", lambda fast=fast: not fast)
        for cut in (1, 4):
            _, first = trained(home, job, how, begun, until=cut)
            after = home.channel.facts[-1].checkpoint
            resumed, rest = trained(home, job, how, begun, step=cut, global_step=cut, checkpoint=after)
            assert resumed == begun
            assert first + rest == whole
            assert home.bits(home.channel.facts[-1].checkpoint) == bits
