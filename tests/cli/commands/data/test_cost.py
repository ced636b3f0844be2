"""The cost of a file: steps of the plan, time from the journal, memory of this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from cli.commands.data.cost import (
    Machine,
    Speed,
    cost_json,
    cost_of,
    cost_rows,
    measure_machine,
    measure_speed,
    total_row,
)
from cli.config.schema import load_config
from cli.home.paths import Home
from cli.machine import gpus
from cli.output.terminal import ATTENTION
from events.kinds import AnyEvent, StepReached
from events.settings import DataSettings, JobSettings, LoraSettings, ModelSettings, TrainingSettings
from gpu.data.plan.batches import Batches
from gpu.model.training_memory import CPU_SHARE, ModelShape
from tests.cli.commands.data.test_advice import SIZE, report

MACHINE = Machine(device="main memory", on_cpu=True, total_bytes=8 * 10**9, available_bytes=10**9)
Run = Callable[..., list[str]]


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize(("rows", "batch_size", "epochs"), [(1, 4, 1), (40, 4, 3), (41, 5, 2)])
def test_steps_are_those_of_the_plan(rows: int, batch_size: int, epochs: int, packing: bool) -> None:
    settings = JobSettings(
        model=ModelSettings(path="m"),
        data=DataSettings(packing=packing),
        training=TrainingSettings(batch_size=batch_size, gradient_accumulation=2, epochs=epochs),
    )
    plan = Batches.planned("a", "b", "c", np.full(rows, 30, np.int32), settings)
    found = cost_of(report(*[30] * rows, settings=settings), settings, None, MACHINE, None)
    assert (found.steps_per_epoch, found.steps) == (plan.steps_per_epoch, plan.steps_total)
    assert found.tokens == 30 * rows * epochs


def test_packed_rows_fill_max_length_and_others_are_as_wide_as_the_longest() -> None:
    settings = JobSettings(model=ModelSettings(path="m"), training=TrainingSettings(kernels="plain"))
    packed = replace(settings, data=DataSettings(packing=True))
    found = report(100, 200)
    plain, full = (cost_of(found, each, SIZE, MACHINE, None).memory for each in (settings, packed))
    assert plain is not None
    assert full is not None
    assert full.activations_bytes == pytest.approx(plain.activations_bytes * 1024 / 200, rel=1e-6)


def text(speed: Speed | None, size: ModelShape | None) -> dict[str, str]:
    settings = JobSettings(model=ModelSettings(path="m"))
    return {
        row.name: row.text for row in cost_rows(cost_of(report(*[100] * 40), settings, size, MACHINE, speed), MACHINE)
    }


def test_the_cost_is_said_in_words() -> None:
    shown = text(Speed(100.0, same_settings=True), SIZE)
    assert shown["steps"] == "3 (1 epoch of 3, up to 16 rows a step)"
    assert shown["time"] == "about 40 s for the steps, at 100 tokens/s, the speed of the last attempt"
    assert shown["memory"].startswith("about 1.")
    assert "main memory has 8.0 GB, 1.0 GB available" in shown["memory"]
    assert "another [model] or [method]" in text(Speed(100.0, same_settings=False), SIZE)["time"]
    unknown = text(None, None)
    assert unknown["time"] == "unknown until the first run"
    assert unknown["memory"].startswith("unknown for this model; main memory has")


def test_a_model_that_does_not_fit_is_said_with_what_helps() -> None:
    settings = JobSettings(model=ModelSettings(path="m"))
    cost = cost_of(report(100), settings, SIZE, MACHINE, None)
    assert cost.memory is not None
    fixed = cost.memory.total_bytes - cost.memory.activations_bytes - cost.memory.logits_bytes
    small, tiny = (replace(MACHINE, total_bytes=int(fixed / CPU_SHARE) + more) for more in (10, -10))
    assert [row.style for row in cost_rows(cost, small)] == ["", "", ATTENTION], "a smaller batch fits"
    assert "may not fit" in cost_rows(cost, tiny)[-1].text
    assert '"lora" or "qlora"' in cost_rows(cost, tiny)[-1].text


def test_several_files_have_a_total() -> None:
    settings = JobSettings(model=ModelSettings(path="m"))
    known, unknown = (
        cost_of(report(*[100] * 40), settings, None, MACHINE, speed)
        for speed in (Speed(100.0, same_settings=True), None)
    )
    assert total_row([known, known]).text == "2 good files: 6 steps, about 1 min 20 s"
    assert total_row([known, unknown]).text == "2 good files: 6 steps"


def test_json_has_null_for_what_is_unknown() -> None:
    settings = JobSettings(model=ModelSettings(path="m"))
    unknown = cost_json(cost_of(report(100), settings, None, MACHINE, None), MACHINE)
    assert (unknown["time_s"], unknown["tokens_per_s"], unknown["memory"]) == (None, None, None)
    known = cost_json(cost_of(report(100), settings, SIZE, MACHINE, Speed(50.0, same_settings=True)), MACHINE)
    assert known["time_s"] == 2.0
    assert known["memory"]["total_bytes"] == sum(
        value for name, value in known["memory"].items() if name != "total_bytes"
    )


def test_the_speed_is_that_of_the_last_attempt_in_the_journal(
    home: Home, drop: Callable[..., Path], run: Run, events: Callable[[], list[AnyEvent]]
) -> None:
    settings = load_config(home.config).job
    assert measure_speed(home, settings) is None
    drop("a.jsonl", "ok ok ok ok")
    run()
    found = measure_speed(home, settings)
    steps = [event for event in events() if isinstance(event, StepReached)]
    assert found is not None
    assert min(step.tokens / step.seconds for step in steps) <= found.tokens_per_s * 1.0001
    assert found.tokens_per_s <= max(step.tokens / step.seconds for step in steps) * 1.0001
    assert found.same_settings
    other = replace(settings, method=LoraSettings(r=99))
    changed = measure_speed(home, other)
    assert changed is not None
    assert not changed.same_settings


def test_the_journal_knows_the_speed_if_an_attempt_has_just_begun(
    home: Home, drop: Callable[..., Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cli.home import snapshot_reader

    drop("a.jsonl", "ok ok ok ok")
    run()
    settings, load = load_config(home.config).job, snapshot_reader.load_state
    expected = measure_speed(home, settings)

    def without_pace(of: Home) -> Any:
        folded, position = load(of)
        return replace(folded, progress=replace(folded.progress, pace=None)), position

    monkeypatch.setattr(snapshot_reader, "load_state", without_pace)
    found = measure_speed(home, settings)
    assert found is not None
    assert expected is not None
    assert found.tokens_per_s == pytest.approx(expected.tokens_per_s, rel=0.5)


def test_the_memory_is_that_of_the_first_gpu_or_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "load_nvml", lambda: None)
    found = measure_machine()
    assert found.on_cpu
    assert 0 < found.available_bytes <= found.total_bytes
    card = SimpleNamespace(name="A100", memory_total_bytes=80, memory_used_bytes=30)
    monkeypatch.setattr(gpus, "load_nvml", lambda: SimpleNamespace(NVMLError=RuntimeError))
    monkeypatch.setattr(gpus, "read_gpus", lambda _: (card,))
    assert measure_machine() == Machine(device="A100", on_cpu=False, total_bytes=80, available_bytes=50)

    def hangs(_: Any) -> Any:
        raise RuntimeError("the driver is gone")

    monkeypatch.setattr(gpus, "read_gpus", hangs)
    assert measure_machine().on_cpu
