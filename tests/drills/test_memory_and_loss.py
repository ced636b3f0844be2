"""Memory that runs out and numbers that run away, in a real worker under a real daemon: what is detected, what is done,
and that the bits are those of a run which knew it from the journal."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Sequence
from itertools import count
from typing import TypeVar

import pytest

from cli.home.paths import Home
from core.values import Checkpoint
from events import kinds
from events.codec import decode_record
from events.event import Event
from events.kinds import BatchSkipped, MicrobatchSplit
from journal import START, follow
from tests.crash.homes import KEEPSTEP, log_of, make_home, run_to_the_end, state_of, trained
from tests.drills.drill import REAL, Drill, Row

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

E = TypeVar("E", bound=Event)

STEPS = 22
"""Of both files, twelve and ten; a commit after each second one."""


Make = Callable[[], Home]
Record = Callable[[Row], None]

FORWARD = "out of memory in the forward pass"
BACKWARD = "out of memory in the backward pass"
UPDATE = "out of memory within the optimizer's update"
NAN = "a loss that is no number"
TWICE = "a loss that is no number, twice in a file"
ROWS = (FORWARD, BACKWARD, UPDATE, NAN, TWICE)
AGAIN = "the same step at once in two parts; so again in every later run of it, to the same bits"


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """New homes of two files, next to one model; every checkpoint is kept."""
    base = tmp_path_factory.mktemp("homes")
    numbers = count(1)

    def a_home() -> Home:
        home = make_home(base / f"home-{next(numbers)}")
        config = home.config.read_text(encoding="utf-8")
        home.config.write_text(config.replace("keep = 2 ", "keep = 99 "), encoding="utf-8")
        return home

    return a_home


def events(home: Home) -> list[kinds.AnyEvent]:
    return [record.event for record in follow(home.journal, decode_record, START)[0]]


def of(home: Home, kind: type[E]) -> list[E]:
    return [event for event in events(home) if isinstance(event, kind)]


def ran(home: Home, faults: str = "", **environment: str) -> int:
    """The exit code of a daemon that meets these faults."""
    return run_to_the_end(home, **({"KEEPSTEP_FAULTS": faults} if faults else {}), **environment)


def killed_at(home: Home, point: str, faults: str) -> None:
    """A daemon meets the faults and dies with -9 at that point."""
    once = home.root / "run" / "died"
    code = ran(home, faults, KEEPSTEP_FAILPOINT=point, KEEPSTEP_FAILPOINT_ONCE=str(once))
    assert once.exists(), log_of(home)
    assert code in {-signal.SIGKILL, 0}, log_of(home)  # 0: it was the worker that died


def command(home: Home, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*KEEPSTEP, *words, "--home", str(home.root)], capture_output=True, text=True, check=False, timeout=240
    )


def assert_whole(home: Home, attempts: Sequence[str] = ()) -> None:
    """Everything was trained; the attempts that failed did so for these reasons; no step came out in two ways."""
    assert state_of(home).head.global_step == STEPS, log_of(home)
    assert [event.failure for event in of(home, kinds.AttemptFailed)] == list(attempts)
    assert not of(home, kinds.DivergenceDetected)


def by_step(checkpoint: Checkpoint) -> int:
    return checkpoint.global_step


def proved(home: Home, global_step: int) -> bool:
    """Whether the first checkpoint that holds that step comes out again from the one before it, to the bit. Which that
    is, is a matter of time: none is begun before the one before it is committed."""
    name = min((each for each in state_of(home).head.checkpoints if each.global_step >= global_step), key=by_step).id
    said = command(home, "lineage", name, "--prove")
    assert said.returncode in {0, 1}, said.stderr
    return said.returncode == 0


@pytest.fixture(scope="module")
def split(make: Make) -> Home:
    """Memory ran out in the forward pass of step 3, and nobody disturbed it."""
    home = make()
    assert ran(home, "forward:3") == 0, log_of(home)
    return home


@pytest.fixture(scope="module")
def aside(make: Make) -> Home:
    """The loss of step 5 was no number, and nobody disturbed it."""
    home = make()
    assert ran(home, "nan:5") == 0, log_of(home)
    return home


# -- memory ---------------------------------------------------------------------------------------------------------


def test_out_of_memory_in_the_forward_pass_costs_no_attempt_and_no_step(split: Home, record: Record) -> None:
    """The same step again, in two parts; what is committed is proved by running it again, with memory for all."""
    assert_whole(split)
    (halved,) = of(split, MicrobatchSplit)
    assert (halved.global_step, halved.step, halved.parts, halved.attempt) == (3, 3, 2, 1)
    assert len(of(split, kinds.AttemptStarted)) == 2  # one a file
    assert len(of(split, kinds.StepReached)) == STEPS
    assert proved(split, 3)
    assert "does not fit into memory; it runs again" in command(split, "explain", "first.jsonl").stdout
    record(Row(FORWARD, "`microbatch_split`", "at once", Drill(split, REAL).lost(), AGAIN))


def test_out_of_memory_in_the_backward_pass_leaves_nothing_of_the_half_step(
    split: Home, make: Make, record: Record
) -> None:
    """Part of the gradients was there: the bits are those of the run in which there was none."""
    home = make()
    assert ran(home, "backward:3") == 0, log_of(home)
    assert_whole(home)
    assert trained(home) == trained(split)
    record(Row(BACKWARD, "`microbatch_split`", "at once", Drill(home, REAL).lost(), AGAIN))


def test_out_of_memory_within_the_optimizer_goes_back_to_the_last_commit(
    split: Home, make: Make, record: Record
) -> None:
    """The weights had changed: nothing of that is kept, and the step is run again in two parts."""
    home = make()
    assert ran(home, "update:3") == 0, log_of(home)
    assert_whole(home, ["out_of_memory"])
    assert trained(home) == trained(split)
    did = "back to the last commit; the step in two parts"
    record(Row(UPDATE, "`out_of_memory`, `microbatch_split`", "at once", Drill(home, REAL).lost(), did))


@pytest.mark.parametrize("point", ["journaled_microbatch_split", "step:3", "file_written:9", "before_report:2"])
def test_killed_after_a_split_it_is_split_again_though_memory_is_there(split: Home, make: Make, point: str) -> None:
    """The journal knows it, whatever the memory of today: the same bits as the run that was not killed."""
    home = make()
    killed_at(home, point, "forward:3")
    assert ran(home) == 0, log_of(home)
    assert len(of(home, MicrobatchSplit)) == 1
    assert state_of(home).head.global_step == STEPS
    assert not of(home, kinds.DivergenceDetected)
    assert trained(home) == trained(split)


def test_one_row_that_does_not_fit_ends_its_job_and_the_queue_continues(make: Make) -> None:
    """Halved as far as it goes, tried again four times, abandoned. The next one comes to the same step."""
    home = make()
    assert ran(home, "forward:3:0") == 1, log_of(home)  # both files failed for good
    assert [event.failure for event in of(home, kinds.AttemptFailed)] == ["out_of_memory"] * 10
    failed = of(home, kinds.JobFailed)
    assert len({event.job for event in failed}) == 2
    assert all("one row alone does not fit" in event.message for event in failed)
    assert state_of(home).head.global_step in {0, 2}  # the save of step 2 may have been in flight


# -- loss -----------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_is_left_out_with_its_batch(aside: Home, record: Record) -> None:
    """Back to the last commit, on without it; its rows are named, and they are not in the weights by that step."""
    assert_whole(aside, ["loss"])
    (event,) = of(aside, BatchSkipped)
    assert (event.global_step, event.loss, event.suspicion, len(event.lines)) == (5, "NaN", "not_finite", 4)
    reached = [event for event in of(aside, kinds.StepReached) if event.global_step == 5]
    assert [(event.loss, event.grad_norm, event.tokens) for event in reached] == [("NaN", 0.0, 0)]
    assert proved(aside, 5)
    lines = ", ".join(map(str, event.lines))
    assert f"lines {lines} of the file" in command(aside, "explain", "first.jsonl").stdout
    contains = command(aside, "lineage", "--contains", f"first.jsonl:{event.lines[0]}").stdout
    assert contains.startswith("yes: trained at step")  # in the second epoch
    assert "5" not in contains.split("step ")[1].split(", ")
    did = "stopped before the update; back to the last commit, on without the four rows of the batch, which are named"
    record(Row(NAN, "`loss`, `batch_skipped`", "at once", Drill(aside, REAL).lost(), did))


def test_a_gradient_that_is_no_number_is_the_same(aside: Home, make: Make) -> None:
    home = make()
    assert ran(home, "nan_gradient:5") == 0, log_of(home)
    assert_whole(home, ["loss"])
    assert trained(home) == trained(aside)


@pytest.mark.parametrize("point", ["journaled_batch_skipped", "step:6", "journaled_attempt_failed", "worker_ended"])
def test_killed_after_the_decision_the_batch_is_left_out_all_the_same(aside: Home, make: Make, point: str) -> None:
    """Though its numbers would be good today: the same bits as the run that was not killed."""
    home = make()
    killed_at(home, point, "nan:5")
    assert ran(home) == 0, log_of(home)
    assert len(of(home, BatchSkipped)) == 1
    assert state_of(home).head.global_step == STEPS
    assert trained(home) == trained(aside)


def test_a_second_suspect_batch_ends_the_job_and_a_person_continues_it(make: Make, record: Record) -> None:
    """Committed steps stay, the other file is trained; `retry` leaves the second batch out too."""
    home = make()
    assert ran(home, "nan:3,nan:12") == 1, log_of(home)  # one file failed for good
    assert [event.failure for event in of(home, kinds.AttemptFailed)] == ["loss"] * 3  # global step 12 comes twice
    (failed,) = of(home, kinds.JobFailed)
    assert "a second batch is suspect" in failed.message
    kept = state_of(home).head.global_step - 10
    assert kept >= 4
    assert command(home, "retry", failed.job[:12]).returncode == 0
    assert ran(home, "nan:22") == 0, log_of(home)  # its step 12 is global step 22 now
    assert [event.step for event in of(home, BatchSkipped)] == [3, 12 - kept, 12]
    assert state_of(home).head.global_step == STEPS
    did = "`job_failed` at the second: what is committed stays, the queue continues; `retry` skips both batches"
    record(Row(TWICE, "`loss`, `batch_skipped`, twice", "at once", "nothing committed", did))
