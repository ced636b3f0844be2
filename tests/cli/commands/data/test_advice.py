"""Advised settings: long rows are not cut where memory allows it, and a step keeps its rows."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from cli.commands.data.advice import Change, adjusted_rows, advice_rows, advise
from cli.commands.data.cost import Machine
from events.settings import DataSettings, JobSettings, ModelSettings, TrainingSettings
from gpu.data.examine.examination import Examination, FileFacts, RowResult
from gpu.data.examine.report import Report
from gpu.model.training_memory import CPU_SHARE, ModelShape, estimate_memory

SETTINGS = JobSettings(model=ModelSettings(path="m"), training=TrainingSettings(batch_size=4, gradient_accumulation=4))
SIZE = ModelShape(
    parameters=10**8,
    trained=10**6,
    quantized=0,
    layers=10,
    hidden=500,
    mlp=2000,
    queries=500,
    keys=500,
    vocabulary=10**4,
)


def report(*lengths: int, settings: JobSettings = SETTINGS) -> Report:
    examination = Examination(settings)
    for line, tokens in enumerate(lengths, start=1):
        treatment = "truncated" if tokens > settings.data.max_length else "whole"
        examination.add(RowResult(line, tokens=tokens, treatment=treatment))
    file = FileFacts("a", "ab" * 32, 1, "JSON Lines", "text")
    return examination.report(file, trained=len(lengths), tokens=sum(lengths), trained_tokens=1)


def machine(positions: float, settings: JobSettings = SETTINGS) -> Machine:
    """A machine in which a micro-batch of so many positions just fits."""
    needed = estimate_memory(SIZE, settings, int(positions), on_cpu=True).total_bytes
    total = int(needed / CPU_SHARE) + 10
    return Machine(device="main memory", on_cpu=True, total_bytes=total, available_bytes=total)


def advised(*lengths: int, positions: float = 10**6, settings: JobSettings = SETTINGS) -> dict[str, int]:
    changes = advise([report(*lengths, settings=settings)], settings, SIZE, machine(positions, settings))
    return {change.key.partition(".")[2]: change.advised for change in changes}


def test_settings_that_suit_the_file_stay() -> None:
    assert advised(100, 1024) == {}
    assert advised() == {}
    assert advise([report(100)], SETTINGS, None, machine(1)) == [], "nothing is known about the model"


def test_max_length_is_raised_for_rows_that_would_be_cut() -> None:
    assert advised(100, 1501) == {"max_length": 1504}
    assert advise([report(100, 1501)], SETTINGS, None, machine(1))[0].advised == 1504


def test_one_outlier_does_not_set_max_length() -> None:
    assert advised(*[1200] * 200, 90_000) == {"max_length": 1200}
    assert advised(*[100] * 200, 90_000) == {}


def test_max_length_stays_within_the_positions_of_the_model() -> None:
    (change,) = advise([report(1501)], SETTINGS, replace(SIZE, positions=1300), machine(10**6))
    assert change == Change("data.max_length", 1024, 1300, "rows are longer than max_length")


@pytest.mark.parametrize(("positions", "batch_size"), [(2048, 2), (4095, 2), (1024, 1), (4096, None)])
def test_the_batch_shrinks_until_it_fits_and_a_step_keeps_its_rows(positions: int, batch_size: int | None) -> None:
    found = advised(1024, positions=positions)
    if batch_size is None:
        assert found == {}
    else:
        assert found == {"batch_size": batch_size, "gradient_accumulation": 16 // batch_size}


def test_rows_are_made_shorter_only_if_a_single_one_does_not_fit() -> None:
    off = replace(SETTINGS, training=replace(SETTINGS.training, gradient_checkpointing="off"))
    found = advised(1024, positions=700, settings=off)
    assert found == {"max_length": 696, "batch_size": 1, "gradient_accumulation": 16}
    assert advised(500, positions=700, settings=off) == {"batch_size": 1, "gradient_accumulation": 16}, "it is shorter"
    packed = replace(off, data=DataSettings(packing=True))
    assert advised(500, positions=700, settings=packed)["max_length"] == 696, "packed rows fill max_length"


def test_gradient_checkpointing_comes_before_shorter_rows_and_after_smaller_batches() -> None:
    assert "max_length" not in advised(1024, positions=700)
    assert advised(1024, positions=1024) == {"batch_size": 1, "gradient_accumulation": 16}


def test_a_model_that_does_not_fit_is_not_helped_by_these_keys() -> None:
    tiny = Machine(device="main memory", on_cpu=True, total_bytes=10**6, available_bytes=10**6)
    assert advise([report(2000)], SETTINGS, SIZE, tiny) == []


def test_locked_keys_are_named() -> None:
    changes = [Change("data.max_length", 1024, 1504, "rows are longer"), Change("training.batch_size", 4, 2, "memory")]
    (first, second) = advice_rows(changes, {"data.max_length"})
    assert "data.max_length = 1504 instead of 1024: rows are longer; locked until" in first.text
    assert "locked" not in second.text
    rows = adjusted_rows(changes, changes[1:], {"data.max_length"})
    assert [row.name for row in rows] == ["changed", "locked", ""]
    assert "keepstep consolidate" in rows[-1].text
    assert "nothing to change" in adjusted_rows([], [], set())[0].text
    assert "was not changed" in adjusted_rows(changes, [], set())[0].text
