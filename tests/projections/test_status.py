"""The status file: its content in each situation, its size, and that it is always complete."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from core import commands
from events import kinds
from projections.progress import Folded, Pace, Progress
from projections.status import QUEUE_SHOWN, StatusView, plain, read_status, write_status
from projections.status_view import status_view
from tests.core.world import World, job_id, settings
from tests.projections.timeline import folded


def world(*files: int) -> World:
    """A running home with these files."""
    made = World()
    made.start()
    for steps in files:
        made.add(steps)
    return made


def view(made: World) -> StatusView:
    """What the status file says."""
    return status_view(folded(made), seq=len(made.journal), crc="0a0b0c0d", heartbeat_at=1.8e9)


def nothing() -> World:
    """A home in which no daemon ever ran."""
    return World()


def training() -> World:
    """In the middle of the first of three files."""
    made = world(4, 2, 2)
    made.run_until(kinds.StepReached, 3)
    return made


def done() -> World:
    """One trained, one rejected, one skipped."""
    made = world(2, 0)
    made.execute(commands.Skip(job=made.add(1)))
    made.run()
    return made


def held() -> World:
    """The model cannot be loaded."""
    made = world(2)
    made.run_until(kinds.JobPrepared)
    made.fails("model")
    return made


def full() -> World:
    """No room for the next checkpoint."""
    made = world(4)
    made.run_until(kinds.StepReached, 3)
    made.fails("disk_full")
    return made


def abandoned() -> World:
    """A job failed for good while another waits to be tried again."""
    made = world(2, 2)
    for _ in range(6):
        made.now += 100
        made.turn()
        made.lose_worker()
    return made


def running_again() -> World:
    """Lost steps of a finished file come back while another one waits."""
    made = world(6, 2)
    made.config = settings(keep=9)
    made.run_until(kinds.JobTrained)
    made.start()
    assert made.state.head.checkpoint is not None
    made.execute(commands.QuarantineCheckpoint(checkpoint=made.state.head.checkpoint.id, problem="rot"))
    made.run_until(kinds.StepReached)
    return made


SITUATIONS = [nothing, training, done, held, full, abandoned, running_again]


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)
def test_each_situation_is_shown_as_it_was_agreed(
    situation: Callable[[], World], golden: Callable[[Path, str], None]
) -> None:
    """Scripts read this file: its fields change only with a reason."""
    text = msgspec.json.format(msgspec.json.encode(view(situation())), indent=2).decode()
    golden(Path(__file__).parent / "golden" / f"status_{situation.__name__}.json", f"{text}\n")


def test_the_queue_shown_is_bounded() -> None:
    """A hundred thousand files waiting make the number larger, not the file."""
    made = world(*([1] * (QUEUE_SHOWN + 30)))
    queue = view(made).queue
    assert (queue.waiting, len(queue.next)) == (QUEUE_SHOWN + 30, QUEUE_SHOWN)
    assert queue.next[0].name == "file-1.jsonl"


def test_progress_and_eta_follow_from_steps_and_bytes() -> None:
    """Half a second a step: this file by its steps, the waiting files by their size relative to this one."""
    job, queue = view(training()).job, view(training()).queue
    assert job is not None
    assert (job.step, job.steps_total, job.progress) == (3, 4, 0.75)
    assert job.eta_s == pytest.approx(0.5)
    assert job.tokens_per_s == pytest.approx(200.0)
    # 500 bytes of this file (three quarters of them done) are 4 steps; 600 bytes wait after it.
    assert queue.progress == pytest.approx(375 / 1100)
    assert queue.eta_s == pytest.approx(0.5 + 600 * 4 * 0.5 / 500)


def test_lost_steps_delay_all_files_that_wait() -> None:
    """The file whose steps are run again is done already: nothing of what waits is taken for its own."""
    shown = view(running_again())
    assert shown.job is not None
    assert shown.job.eta_s == pytest.approx(0.5)
    assert shown.queue.eta_s == pytest.approx(0.5 + 300 * 6 * 0.5 / 700)


def test_between_attempts_the_committed_step_counts() -> None:
    """What was reached and not committed is not shown as if it were safe."""
    made = training()
    made.start()
    job = view(made).job
    assert job is not None
    assert (job.step, job.attempt, job.status) == (2, None, "queued")


def test_nothing_to_do_is_everything_done() -> None:
    """An empty queue is at 100 %, and needs no time."""
    queue = view(world()).queue
    assert (queue.waiting, queue.progress, queue.eta_s) == (0, 1.0, None)


def test_steps_that_take_no_time_have_no_speed() -> None:
    """A division that cannot be done is left out."""
    made = training()
    whole = folded(made)
    progress = msgspec.structs.replace(whole.progress, pace=Pace(0.0, 100.0))
    shown = status_view(Folded(whole.state, progress), seq=1, crc="", heartbeat_at=0.0)
    assert shown.job is not None
    assert shown.job.tokens_per_s is None
    assert Progress().pace is None


def test_held_jobs_are_counted_and_not_among_the_next() -> None:
    """What is taken next is shown, with how many wait in each lane."""
    made = world()
    for priority in ("high", "normal", "normal"):
        made.add(1, priority)
    made.execute(commands.HoldJob(job=job_id(2)))
    queue = view(made).queue
    assert (queue.waiting, queue.held) == (3, 1)
    assert plain(queue.lanes) == {"high": 1, "normal": 2, "low": 0}
    assert [job.name for job in queue.next] == ["file-1.jsonl", "file-3.jsonl"]


def test_a_file_that_is_taken_out_is_no_work_any_more() -> None:
    """What is left is all of it."""
    made = world()
    made.add(4)
    made.add(2)
    made.execute(commands.RemoveJob(job=job_id(1)))
    assert view(made).queue.progress == 0.0
    made.run()
    assert view(made).queue.progress == 1.0


def test_it_reads_back_as_it_was_written(tmp_path: Path) -> None:
    """With its witness: the position and checksum of the last record that it has seen."""
    path = tmp_path / "status.json"
    write_status(path, view(training()))
    shown = read_status(path)
    assert shown == view(training())
    assert shown is not None
    assert shown.crc == "0a0b0c0d"
    assert plain(shown)["job"]["step"] == 3


@pytest.mark.parametrize("data", [b"", b"{", b"{}", b"\xff\xfe"])
def test_a_spoiled_status_is_none(tmp_path: Path, data: bytes) -> None:
    """A reader goes to the journal instead."""
    path = tmp_path / "status.json"
    path.write_bytes(data)
    assert read_status(path) is None
    assert read_status(tmp_path / "missing.json") is None


def test_readers_see_the_old_status_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new one takes the name in one go: whatever goes wrong before, the old file is whole."""
    path = tmp_path / "status.json"
    write_status(path, view(nothing()))

    def fail(*_args: object, **_kwargs: object) -> None:
        assert read_status(path) == view(nothing())
        raise OSError("power loss")

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, fail)
        monkeypatch.setattr(Path, name, fail)
    with pytest.raises(OSError, match="power loss"):
        write_status(path, view(training()))
    assert read_status(path) == view(nothing())
