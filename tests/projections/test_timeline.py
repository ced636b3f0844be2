"""Whose story a record belongs to. Each moment is named by the kind of its event; steps and commits are one line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from core import commands
from core.evolve import evolve
from core.state import State
from events import kinds, versions
from events.codec import kind_of
from events.kinds import AnyEvent
from projections.timeline import OfACheckpoint, OfACrash, OfAJob, OfAStep, OfAVersion, Teller
from tests.core.world import World, job_id
from tests.projections.timeline import records


def say(event: AnyEvent, _state: State) -> str:
    """In place of a sentence."""
    return kind_of(event)


def told(world: World, teller: Teller) -> list[str]:
    """The moments of a story, from the world's journal."""
    state, at = State(), datetime.fromtimestamp(world.now, UTC)
    for record in records(world):
        before, state = state, evolve(state, record.event)
        timed = replace(record, at=(at + timedelta(seconds=record.seq)).isoformat())
        teller.see(before, state, timed)
    assert [moment.seq for moment in teller.moments] == sorted(moment.seq for moment in teller.moments)
    return [moment.text.partition(" (")[0] for moment in teller.moments]


def world() -> World:
    """Two files; the worker dies once in the first."""
    made = World()
    made.start()
    made.add(4)
    made.add(2)
    made.run_until(kinds.StepReached, 3)
    made.lose_worker("killed")
    made.run()
    return made


def seq_of(made: World, event: type[AnyEvent]) -> int:
    """The number of the first record of a kind."""
    return next(seq for seq, each in enumerate(made.journal, 1) if isinstance(each, event))


FIRST_FILE = [
    "file_enqueued",
    "attempt_started",
    "job_prepared",
    "training_started",
    "steps 1 to 3",
    "attempt_failed",
    "attempt_started",
    "job_prepared",
    "training_started",
    "steps 3 to 4",
    "job_trained",
]


def test_a_job_is_told_from_its_file_to_its_end() -> None:
    """By its name or by the first digits of its number; of other files not a word."""
    assert told(world(), OfAJob(say, wanted="file-1.jsonl")) == FIRST_FILE
    assert told(world(), OfAJob(say, wanted=job_id(1))) == FIRST_FILE
    teller = OfAJob(say, wanted="file-3.jsonl")
    assert told(world(), teller) == []
    assert not teller.found


def test_steps_and_commits_in_a_row_are_one_line() -> None:
    """With the first and the last loss, and the last commit."""
    teller = OfAJob(say, wanted="file-2.jsonl")
    told(world(), teller)
    (line,) = [moment.text for moment in teller.moments if moment.text.startswith("steps")]
    assert line.startswith("steps 1 to 2 (global steps 5 to 6), loss ")
    assert line.endswith("; committed as step-00000006-attempt-0003")


def test_names_that_several_files_share_are_noticed() -> None:
    """All of them are found; who asks has to choose."""
    teller = OfAJob(say, wanted="0000")
    told(world(), teller)
    assert set(teller.jobs) == {job_id(1), job_id(2)}


def test_a_failure_says_what_it_means_and_when_it_is_tried_again() -> None:
    """Behind the sentence that names it."""
    teller = OfAJob(say, wanted="file-1.jsonl")
    told(world(), teller)
    (failed,) = [moment.text for moment in teller.moments if moment.text.startswith("attempt_failed")]
    assert "the worker's process was killed" in failed
    assert "; to be tried again after " in failed


def test_a_crash_is_told_from_what_led_to_it_until_work_went_on() -> None:
    """The attempt that failed, and the next one up to its first commit."""
    made = world()
    assert told(made, OfACrash(say, seq=seq_of(made, kinds.AttemptFailed))) == [
        "attempt_started",
        "training_started",
        "steps 1 to 3",
        "attempt_failed",
        "attempt_started",
        "job_prepared",
        "training_started",
        "committed as step-00000004-attempt-0002",
    ]


def test_a_record_that_is_no_crash_has_no_such_story() -> None:
    """Whatever led up to it."""
    made = world()
    for event in (kinds.JobTrained, kinds.FileEnqueued, kinds.StepReached):
        teller = OfACrash(say, seq=seq_of(made, event))
        told(made, teller)
        assert not teller.found
    teller = OfACrash(say, seq=9_999)
    told(made, teller)
    assert not teller.found


def test_a_hold_is_told_until_a_person_lets_go_on() -> None:
    """With the failure that it followed from."""
    made = World()
    made.start()
    made.add(2)
    made.run_until(kinds.JobPrepared)
    made.fails("model")
    made.execute(commands.Resume())
    made.run()
    moments = told(made, OfACrash(say, seq=seq_of(made, kinds.DaemonHeld)))
    assert moments[:4] == ["attempt_started", "daemon_held", "resumed", "attempt_started"]


def test_a_step_is_told_each_time_that_it_was_reached() -> None:
    """And once when it was committed."""
    moments = told(world(), OfAStep(say, step=3))
    assert moments == ["step 3", "step 3"]
    teller = OfAStep(say, step=3)
    told(world(), teller)
    assert teller.moments[-1].text.endswith("committed as step-00000004-attempt-0002")


def consolidated() -> World:
    """One file, made into a version; then another."""
    made = World()
    made.start()
    made.add(2)
    made.run()
    made.execute(commands.RequestConsolidation(description="d", after_current=False, night=None))
    made.run()
    made.add(2)
    made.run()
    return made


def test_a_version_is_told_from_the_wish_for_it() -> None:
    """Through backup, merge and proof."""
    assert told(consolidated(), OfAVersion(say, version="v001")) == [
        "consolidation_requested",
        "consolidation_started",
        "consolidation_backed_up",
        "consolidation_merged",
        "consolidation_verified",
        "version_published",
        "consolidation_finished",
    ]


def test_what_is_in_a_version_has_it_in_its_story() -> None:
    """A job, a step and a checkpoint; what was learned later has not."""
    made = consolidated()
    head = next(event for event in made.journal if isinstance(event, kinds.CheckpointCommitted))
    for teller in (
        OfAJob(say, wanted="file-1.jsonl"),
        OfAStep(say, step=1),
        OfACheckpoint(say, checkpoint=head.checkpoint),
    ):
        assert "version_published" in told(made, teller)
    assert "version_published" not in told(made, OfAJob(say, wanted="file-2.jsonl"))
    assert "version_published" not in told(made, OfAStep(say, step=3))


def test_a_checkpoint_is_told_from_its_commit_to_its_end() -> None:
    """A damaged one is set aside, and its copy is named."""
    made = world()
    last = made.state.checkpoints[-1].id
    made.execute(commands.QuarantineCheckpoint(checkpoint=last, problem="a flipped bit"))
    assert told(made, OfACheckpoint(say, checkpoint=last)) == [
        f"committed as {last}",
        "job_trained",
        "checkpoint_quarantined",
    ]
    assert told(made, OfAStep(say, step=6))[-1] == "checkpoint_quarantined"


def test_a_head_that_moves_away_is_part_of_what_it_leaves() -> None:
    """A job whose steps are left behind, and the checkpoint that was the head."""
    made = consolidated()
    last = made.state.checkpoints[-1].id
    made.execute(commands.RollBack())
    assert isinstance(made.journal[-1], versions.HeadMoved | kinds.CheckpointPruned)
    for teller in (
        OfAJob(say, wanted="file-2.jsonl"),
        OfACheckpoint(say, checkpoint=last),
        OfAStep(say, step=made.state.global_step + 1),
    ):
        assert "head_moved" in told(made, teller)
