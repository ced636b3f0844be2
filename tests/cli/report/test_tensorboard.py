"""The event files, read as TensorBoard reads them and record by record."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cli.report import tensorboard
from cli.report.tensorboard import TensorBoard, read_events
from cli.report.writer import Target
from projections.metrics import Point
from tests.harness.syncs import Syncs


@pytest.fixture
def writer(tmp_path: Path) -> TensorBoard:
    """A writer with an empty directory."""
    return again(tmp_path)


def again(directory: Path) -> TensorBoard:
    """A new process."""
    return TensorBoard(Target(directory, "p", "run", "id"))


def points(first: int, last: int, loss: float) -> list[Point]:
    return [Point(number, number, 1000.0 + number, {"loss": loss}) for number in range(first, last + 1)]


def shown(directory: Path, tag: str = "loss") -> list[tuple[int, float]]:
    """As TensorBoard shows them."""
    accumulator = EventAccumulator(str(directory / "train"), size_guidance={"scalars": 0})
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def stored(directory: Path) -> list[int]:
    """The steps in all files, in order."""
    return [
        event.step
        for path in sorted((directory / "train").iterdir())
        for event, _ in read_events(path.read_bytes())
        if event.HasField("summary")
    ]


def wanted(*parts: Sequence[Point]) -> list[tuple[int, float]]:
    return [(point.global_step, point.values["loss"]) for part in parts for point in part]


def test_points_are_shown_with_their_step_and_time(writer: TensorBoard, tmp_path: Path) -> None:
    writer.write("train", points(1, 3, 2.0))
    writer.write("train", points(4, 5, 1.0))
    assert shown(tmp_path) == wanted(points(1, 3, 2.0), points(4, 5, 1.0))
    assert writer.last_step("train") == 5
    assert writer.last_step("validation") == -1
    assert writer.place == f"tensorboard --logdir {tmp_path}"


@pytest.mark.parametrize("step", [1, 2, 4, 7, 10, 11])
def test_a_cut_removes_later_steps_from_the_files(
    writer: TensorBoard, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorboard, "FILE_STEPS", 3)
    for first in range(1, 11):
        writer.write("train", points(first, first, 9.0))
    assert len(list((tmp_path / "train").iterdir())) == 4, "each has three steps"
    again(tmp_path).cut("train", step)
    again(tmp_path).write("train", points(step, 12, 1.0))
    assert stored(tmp_path) == [*range(1, 13)]
    assert shown(tmp_path) == wanted(points(1, step - 1, 9.0), points(step, 12, 1.0))


def test_a_reader_that_is_open_sees_the_new_steps(writer: TensorBoard, tmp_path: Path) -> None:
    writer.write("train", points(1, 5, 9.0))
    accumulator = EventAccumulator(str(tmp_path / "train"), size_guidance={"scalars": 0})
    accumulator.Reload()
    writer.cut("train", 3)
    writer.write("train", points(3, 4, 1.0))
    accumulator.Reload()
    assert [(each.step, each.value) for each in accumulator.Scalars("loss")] == wanted(
        points(1, 2, 9.0), points(3, 4, 1.0)
    )


def test_a_torn_end_is_replaced(writer: TensorBoard, tmp_path: Path) -> None:
    """A kill in the middle of an append, at every byte."""
    writer.write("train", points(1, 3, 2.0))
    (path,) = (tmp_path / "train").iterdir()
    whole = path.read_bytes()
    chance = random.Random(1)
    for length in chance.sample(range(len(whole)), 40):
        for each in (tmp_path / "train").iterdir():
            each.unlink()
        path.write_bytes(whole[:length])
        process = again(tmp_path)
        last = max(0, int(process.last_step("train")))
        process.cut("train", last + 1)
        process.write("train", points(last + 1, 4, 2.0))
        assert stored(tmp_path) == [1, 2, 3, 4], length
        assert shown(tmp_path) == wanted(points(1, 4, 2.0))


def test_long_histories_take_several_files(writer: TensorBoard, tmp_path: Path) -> None:
    writer.write("train", points(1, 2 * tensorboard.FILE_STEPS + 1, 1.0))
    assert len(list((tmp_path / "train").iterdir())) == 3
    assert writer.last_step("train") == 2 * tensorboard.FILE_STEPS + 1


def test_what_the_cursor_counts_survives_a_power_cut(
    writer: TensorBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new file, events that are appended to it, and a cut."""
    syncs = Syncs(monkeypatch)
    acts: tuple[Callable[[], None], ...] = (
        lambda: writer.write("train", points(1, 3, 2.0)),
        lambda: writer.write("train", points(4, 5, 1.0)),
        lambda: writer.cut("train", 3),
    )
    for act in acts:
        act()
        assert syncs.lacks(*(tmp_path / "train").iterdir()) == []
    assert len(list((tmp_path / "train").iterdir())) == 2


def test_a_damaged_event_ends_what_is_read(writer: TensorBoard, tmp_path: Path) -> None:
    """What follows it is written again."""
    writer.write("train", points(1, 3, 2.0))
    (path,) = (tmp_path / "train").iterdir()
    data = bytearray(path.read_bytes())
    (_, end), *_ = [each for each in read_events(bytes(data)) if each[0].step == 2 and each[0].HasField("summary")]
    data[end - 6] ^= 1  # in the body of step 2, before its checksum
    path.write_bytes(data)
    assert again(tmp_path).last_step("train") == 1
    again(tmp_path).cut("train", 2)
    again(tmp_path).write("train", points(2, 3, 2.0))
    assert shown(tmp_path) == wanted(points(1, 3, 2.0))
