"""Which timeline a record belongs to. The text of each entry is the kind of its event."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from core import commands
from core.evolve import evolve
from core.state import State
from events import kinds
from events.codec import kind_of
from events.kinds import AnyEvent
from projections.timeline import (
    CheckpointTimeline,
    FailureTimeline,
    JobTimeline,
    StepTimeline,
    Timeline,
    VersionTimeline,
)
from tests.core.world import World, job_id
from tests.projections.timeline import records


def say(event: AnyEvent, _state: State) -> str:
    """Stands for the text of an event."""
    return kind_of(event)


def texts_of(world: World, timeline: Timeline) -> list[str]:
    """The texts of a timeline, from the journal of the world."""
    state, at = State(), datetime.fromtimestamp(world.now, UTC)
    for record in records(world):
        before, state = state, evolve(state, record.event)
        timed = replace(record, at=(at + timedelta(seconds=record.seq)).isoformat())
        timeline.observe(before, state, timed)
    assert [moment.seq for moment in timeline.entries] == sorted(moment.seq for moment in timeline.entries)
    return [moment.text.partition(" (")[0] for moment in timeline.entries]


def test_id_in_a_text_stays_and_one_as_its_subject_becomes_a_name() -> None:
    """The id in "(job …)" and in commands is there to be copied."""

    def as_subject(event: AnyEvent, _state: State) -> str:
        job = str(getattr(event, "job", ""))[:12]
        return f"{job}: {kind_of(event)}, job {job}; `keepstep retry {job}`"

    first, *_ = texts_of(world(), JobTimeline(as_subject, wanted="file-1.jsonl"))
    job = job_id(1)[:12]
    assert first == f"file-1.jsonl: file_enqueued, job {job}; `keepstep retry {job}`"


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


def test_the_timeline_of_a_job_runs_from_its_file_to_its_end() -> None:
    """By its name or by the first digits of its number; of other files not a word."""
    assert texts_of(world(), JobTimeline(say, wanted="file-1.jsonl")) == FIRST_FILE
    assert texts_of(world(), JobTimeline(say, wanted=job_id(1))) == FIRST_FILE
    timeline = JobTimeline(say, wanted="file-3.jsonl")
    assert texts_of(world(), timeline) == []
    assert not timeline.found


def test_steps_and_commits_in_a_row_are_one_line() -> None:
    """With the first and the last loss, and the last commit."""
    timeline = JobTimeline(say, wanted="file-2.jsonl")
    texts_of(world(), timeline)
    (line,) = [moment.text for moment in timeline.entries if moment.text.startswith("steps")]
    assert line.startswith("steps 1 to 2 (global steps 5 to 6), loss ")
    assert line.endswith("; committed as step-00000006-attempt-0003")


def test_names_that_several_files_share_are_noticed() -> None:
    """All of them are found; who asks has to choose."""
    timeline = JobTimeline(say, wanted="0000")
    texts_of(world(), timeline)
    assert set(timeline.jobs) == {job_id(1), job_id(2)}


def test_a_failure_says_what_it_means_and_when_it_is_retried() -> None:
    """After the text of the failure."""
    timeline = JobTimeline(say, wanted="file-1.jsonl")
    texts_of(world(), timeline)
    (failed,) = [moment.text for moment in timeline.entries if moment.text.startswith("attempt_failed")]
    assert "the worker's process was killed" in failed
    assert "; retried after " in failed


def test_the_timeline_of_a_failure_runs_until_work_resumes() -> None:
    """The attempt that failed, and the next one up to its first commit."""
    made = world()
    assert texts_of(made, FailureTimeline(say, seq=seq_of(made, kinds.AttemptFailed))) == [
        "attempt_started",
        "training_started",
        "steps 1 to 3",
        "attempt_failed",
        "attempt_started",
        "job_prepared",
        "training_started",
        "committed as step-00000004-attempt-0002",
    ]


def test_the_timeline_of_a_failure_has_no_other_job() -> None:
    """A file that was skipped meanwhile is no part of it, and does not end it."""
    made = World()
    made.start()
    made.add(4)
    other = made.add(2)
    made.run_until(kinds.StepReached, 1)
    made.lose_worker("killed")
    made.execute(commands.Skip(job=other))
    made.add(1)
    made.run()
    texts = texts_of(made, FailureTimeline(say, seq=seq_of(made, kinds.AttemptFailed)))
    assert texts[3:] == [
        "attempt_failed",
        "attempt_started",
        "job_prepared",
        "training_started",
        "committed as step-00000002-attempt-0002",
    ]


def test_a_pause_is_part_of_the_job_that_it_stops_and_of_no_other() -> None:
    made = World()
    made.start()
    made.add(4)
    made.add(2)
    made.run_until(kinds.StepReached, 1)
    made.execute(commands.Pause())
    made.run()
    made.execute(commands.Resume())
    made.run()
    assert {"pause_requested", "resumed"} <= {*texts_of(made, JobTimeline(say, wanted="file-1.jsonl"))}
    assert not {"pause_requested", "resumed"} & {*texts_of(made, JobTimeline(say, wanted="file-2.jsonl"))}


def test_a_record_that_is_no_failure_has_no_failure_timeline() -> None:
    """Whatever led up to it."""
    made = world()
    for event in (kinds.JobTrained, kinds.FileEnqueued, kinds.StepReached):
        timeline = FailureTimeline(say, seq=seq_of(made, event))
        texts_of(made, timeline)
        assert not timeline.found
    timeline = FailureTimeline(say, seq=9_999)
    texts_of(made, timeline)
    assert not timeline.found


def test_the_timeline_of_a_hold_runs_until_a_person_resumes() -> None:
    """With the failure that it followed from."""
    made = World()
    made.start()
    made.add(2)
    made.run_until(kinds.JobPrepared)
    made.fails("model")
    made.execute(commands.Resume())
    made.run()
    moments = texts_of(made, FailureTimeline(say, seq=seq_of(made, kinds.DaemonHeld)))
    assert moments[:4] == ["attempt_started", "daemon_held", "resumed", "attempt_started"]


def test_a_step_is_listed_each_time_that_it_was_reached() -> None:
    """And once when it was committed."""
    moments = texts_of(world(), StepTimeline(say, step=3))
    assert moments == ["step 3", "step 3"]
    timeline = StepTimeline(say, step=3)
    texts_of(world(), timeline)
    assert timeline.entries[-1].text.endswith("committed as step-00000004-attempt-0002")


def consolidated() -> World:
    """One file, made into a version; then another."""
    made = World()
    made.start()
    made.add(2)
    made.run()
    made.execute(commands.RequestConsolidation(description="d", after_current=False, scheduled_for=None))
    made.run()
    made.add(2)
    made.run()
    return made


def test_the_timeline_of_a_version_begins_with_its_request() -> None:
    """Through backup, merge and proof."""
    assert texts_of(consolidated(), VersionTimeline(say, version="v001")) == [
        "consolidation_requested",
        "consolidation_started",
        "consolidation_backed_up",
        "consolidation_merged",
        "consolidation_verified",
        "version_published",
        "consolidation_finished",
    ]


def test_the_version_is_in_the_timeline_of_everything_in_it() -> None:
    """A job, a step and a checkpoint; what was trained later has not."""
    made = consolidated()
    head = next(event for event in made.journal if isinstance(event, kinds.CheckpointCommitted))
    for timeline in (
        JobTimeline(say, wanted="file-1.jsonl"),
        StepTimeline(say, step=1),
        CheckpointTimeline(say, checkpoint=head.checkpoint),
    ):
        assert "version_published" in texts_of(made, timeline)
    assert "version_published" not in texts_of(made, JobTimeline(say, wanted="file-2.jsonl"))
    assert "version_published" not in texts_of(made, StepTimeline(say, step=3))


def test_the_timeline_of_a_checkpoint_runs_from_its_commit_to_its_end() -> None:
    """A damaged one is quarantined, and its backup is named."""
    made = world()
    last = made.state.head.checkpoints[-1].id
    made.execute(commands.QuarantineCheckpoint(checkpoint=last, problem="a flipped bit"))
    assert texts_of(made, CheckpointTimeline(say, checkpoint=last)) == [
        f"committed as {last}",
        "job_trained",
        "checkpoint_quarantined",
    ]
    assert texts_of(made, StepTimeline(say, step=6))[-1] == "checkpoint_quarantined"


def test_a_head_that_moves_away_is_part_of_what_it_leaves() -> None:
    """A job whose steps are left, and the checkpoint that was the head."""
    made = consolidated()
    last = made.state.head.checkpoints[-1].id
    made.execute(commands.RollBack())
    assert isinstance(made.journal[-1], kinds.HeadMoved | kinds.CheckpointPruned)
    for timeline in (
        JobTimeline(say, wanted="file-2.jsonl"),
        CheckpointTimeline(say, checkpoint=last),
        StepTimeline(say, step=made.state.head.global_step + 1),
    ):
        assert "head_moved" in texts_of(made, timeline)


def test_a_checkpoint_has_the_first_version_that_holds_it_and_no_other() -> None:
    """A head that moves away from a later checkpoint is no part of it either."""
    made = consolidated()
    (first, *_) = (event.checkpoint for event in made.journal if isinstance(event, kinds.CheckpointCommitted))
    made.add(2)
    made.run()
    later = made.state.head.checkpoints[-1].id
    made.execute(commands.RequestConsolidation(description=""))
    made.run()
    made.execute(commands.RollBack())
    found = {name: texts_of(made, CheckpointTimeline(say, checkpoint=name)) for name in (first, later)}
    assert found[first].count("version_published") == 1
    assert found[later][0] == f"committed as {later}"
    assert found[later].count("version_published") == 1
    assert "head_moved" not in found[first]
