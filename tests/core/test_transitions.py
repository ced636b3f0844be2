"""Every cell of both tables: what is listed moves as it says, what is not is refused and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

from core import commands
from core.errors import IllegalEvent
from core.evolve import evolve
from core.state import State
from core.transitions import CONSOLIDATION, DAEMON, ENDS_ATTEMPT, JOB, VERSION
from core.values import DetachedCheckpoint
from events import kinds, messages
from events.codec import kind_of
from events.evaluation import ResultsFile, Scores
from events.kinds import EVENT_TYPES, AnyEvent
from events.self_correction import SelfCorrectionSettings
from events.settings import VersionSettings
from events.values import evaluation_of_version
from tests.core.simulated_worker import plan
from tests.core.world import World, job_id, seen, settings

THE_JOB = job_id(1)
BACKUP = "before-v001-attempt-0002"

CONSOLIDATION_KINDS = sorted({kind for row in CONSOLIDATION.values() for kind in row})
VERSION_KINDS = sorted({kind for row in VERSION.values() for kind in row})
JOB_KINDS = sorted({kind for row in JOB.values() for kind in row})
DAEMON_KINDS = sorted({kind for row in DAEMON.values() for kind in row})


def event(kind: str, state: State) -> AnyEvent:
    """The event of this kind about the job, as fitting as it can be in `state`."""
    attempt = state.attempts.current if state.attempts.current is not None else max(1, state.attempts.last)
    about = {"job": THE_JOB, "attempt": attempt}
    head = state.head.checkpoint.id if state.head.checkpoint else None
    at = {"global_step": state.attempts.reached.global_step, "step": state.attempts.reached.step}
    numbers: dict[str, Any] = {"loss": 1.0, "grad_norm": 1.0}
    some = "step-00000001-attempt-0001"
    events: dict[str, Callable[[], AnyEvent]] = {
        "attempt_started": lambda: kinds.AttemptStarted(
            job=THE_JOB, attempt=state.attempts.last + 1, settings=settings()
        ),
        "job_prepared": lambda: kinds.JobPrepared(**about, plan=plan(2)),
        "job_rejected": lambda: kinds.JobRejected(**about, name="f", problem="empty", line=None, message="m"),
        "training_started": lambda: kinds.TrainingStarted(
            **about, global_step=state.head.global_step, step=0, checkpoint=head, environment={}, changed=()
        ),
        "step_reached": lambda: kinds.StepReached(
            **about,
            **numbers,
            global_step=at["global_step"] + 1,
            step=at["step"] + 1,
            epoch=1,
            learning_rate=0.1,
            tokens=1,
            seconds=1.0,
        ),
        "divergence_detected": lambda: kinds.DivergenceDetected(
            **about, **at, **numbers, expected_loss=2.0, expected_grad_norm=2.0
        ),
        "evaluation_done": lambda: kinds.EvaluationDone(
            **about, **at, rows=1, tokens=1, loss=1.0, training_loss=None, seconds=0.1, concern=None
        ),
        "evaluation_abandoned": lambda: kinds.EvaluationAbandoned(**about, failure="hang", message="m"),
        "job_evaluated": lambda: kinds.JobEvaluated(
            **about,
            **at,
            results=None,
            scores=Scores(),
            divergence=None,
            suites_sha256="",
            seconds=0.1,
            problem="m",
        ),
        "samples_generated": lambda: kinds.SamplesGenerated(
            **about,
            **at,
            asked=False,
            answers=(),
            match="exact",
            think_tag="",
            temperature=0.0,
            seed=1,
            tokens=0,
            seconds=0.1,
        ),
        "samples_put_off": lambda: kinds.SamplesPutOff(
            **about, **at, round_s=1.0, trained_s=1.0, cost_max=0.01, next_step=9
        ),
        "samples_failed": lambda: kinds.SamplesFailed(
            **about, **at, asked=False, failure="code", message="m", seconds=0.1
        ),
        "samples_abandoned": lambda: kinds.SamplesAbandoned(**about, failure="hang", message="m"),
        "self_correction_answered": lambda: kinds.SelfCorrectionAnswered(
            **about,
            **at,
            round=1,
            base=None,
            checkpoint=None,
            seed=1,
            settings=SelfCorrectionSettings(),
            prompts=(),
            chat=True,
            rows=0,
            answers=1,
            right=0,
            distinct=0.5,
            mean_tokens=1.0,
            kl=None,
            tokens=1,
            seconds=0.1,
        ),
        "self_correction_put_off": lambda: kinds.SelfCorrectionPutOff(
            **about, **at, round_s=1.0, trained_s=1.0, cost_max=0.1, next_step=None
        ),
        "self_correction_failed": lambda: kinds.SelfCorrectionFailed(
            **about, **at, failure="code", message="m", seconds=0.1
        ),
        "self_correction_abandoned": lambda: kinds.SelfCorrectionAbandoned(**about, failure="hang", message="m"),
        "microbatch_split": lambda: kinds.MicrobatchSplit(
            **about, global_step=at["global_step"] + 1, step=at["step"] + 1, parts=2, steps=64, message="m"
        ),
        "batch_skipped": lambda: kinds.BatchSkipped(
            **about,
            **numbers,
            global_step=at["global_step"] + 1,
            step=at["step"] + 1,
            suspicion="spike",
            message="m",
            lines=(1,),
            earlier={},
        ),
        "checkpoint_committed": lambda: kinds.CheckpointCommitted(
            checkpoint="step-00000009-attempt-0001",
            **about,
            **at,
            parent=head,
            size_bytes=1,
            manifest_sha256="",
            reason="steps",
        ),
        "job_trained": lambda: kinds.JobTrained(**about, global_step=state.head.global_step, checkpoint=head or some),
        "job_skip_requested": lambda: kinds.JobSkipRequested(job=THE_JOB),
        "job_skipped": lambda: kinds.JobSkipped(job=THE_JOB),
        "job_moved": lambda: kinds.JobMoved(job=THE_JOB, priority="high", before=None),
        "job_held": lambda: kinds.JobHeld(job=THE_JOB),
        "job_released": lambda: kinds.JobReleased(job=THE_JOB),
        "job_removed": lambda: kinds.JobRemoved(job=THE_JOB, name="f", keeps_data=False),
        "job_failed": lambda: kinds.JobFailed(job=THE_JOB, message="m"),
        "job_retried": lambda: kinds.JobRetried(job=THE_JOB),
        "attempt_interrupted": lambda: kinds.AttemptInterrupted(**about, reason="r"),
        "attempt_yielded": lambda: kinds.AttemptYielded(**about),
        "attempt_ended": lambda: kinds.AttemptYielded(**about),
        "attempt_failed": lambda: kinds.AttemptFailed(**about, failure="code", message="m", retry_at=1.0),
        "daemon_started": lambda: kinds.DaemonStarted(pid=1, process_started_at=1.0, boot_id="", host="", keepstep=""),
        "daemon_stopped": lambda: kinds.DaemonStopped(reason="r"),
        "daemon_held": lambda: kinds.DaemonHeld(reason="r", advice="a"),
        "pause_requested": kinds.PauseRequested,
        "resumed": kinds.Resumed,
        "stop_requested": kinds.StopRequested,
        "consolidation_started": lambda: kinds.ConsolidationStarted(
            attempt=state.attempts.last + 1, version="v001", parent=None, checkpoint=head or some, backup=BACKUP
        ),
        "consolidation_backed_up": lambda: kinds.ConsolidationBackedUp(attempt=attempt),
        "consolidation_merged": lambda: kinds.ConsolidationMerged(attempt=attempt, applied=1.0, in_place=0.5),
        "consolidation_verified": lambda: kinds.ConsolidationVerified(attempt=attempt, difference=0.0, tolerance=0.1),
        "version_published": lambda: kinds.VersionPublished(
            attempt=attempt, version="v001", size_bytes=1, manifest_sha256="", made_at=1.0
        ),
        "consolidation_finished": lambda: kinds.ConsolidationFinished(attempt=attempt, version="v001"),
        "consolidation_aborted": lambda: kinds.ConsolidationAborted(
            attempt=attempt, failure=None, message="m", retry_at=None
        ),
        "version_evaluation_started": lambda: kinds.VersionEvaluationStarted(
            attempt=state.attempts.last + 1,
            version="v001",
            parent=None,
            evaluation="v001-attempt-0009",
            settings=VersionSettings(),
        ),
        "version_evaluated": lambda: kinds.VersionEvaluated(
            attempt=attempt,
            version="v001",
            results=ResultsFile(id=evaluation_of_version("v001", attempt), sha256="", size_bytes=1),
            scores=Scores(),
            comparison=None,
            divergence=None,
            suites_sha256="",
            seconds=0.1,
            problem="",
            worse="",
        ),
        "version_evaluation_failed": lambda: kinds.VersionEvaluationFailed(
            attempt=attempt, version="v001", failure="code", message="m", retry=False, retry_at=None
        ),
        "version_held": lambda: kinds.VersionHeld(version="v001", reason="r"),
        "version_promoted": lambda: kinds.VersionPromoted(version="v001", by="person"),
        "head_moved": lambda: kinds.HeadMoved(version="v001", checkpoint=None, backup=None),
        "version_deleted": lambda: kinds.VersionDeleted(version="v001", size_bytes=1, by="person"),
    }
    return events[kind]()


def job_world(status: str, kind: str = "") -> World:
    """A world whose only job has this status; `training` is where the event of that kind finds it."""
    world = World()
    world.config = settings(every_steps=9)
    world.start()
    world.add(0 if status == "rejected" else 2)
    match status:
        case "queued" if kind == "job_failed":  # only a job in progress fails permanently
            world.turn()
            world.start()
        case "held":
            world.execute(commands.HoldJob(job=THE_JOB))
        case "preparing":
            world.turn()
        case "ready":
            world.run_until(kinds.JobPrepared)
        case "training" if kind == "job_trained":
            world.run_until(kinds.StepReached, 2)
            world.happens(event("checkpoint_committed", world.state))
        case "training":
            world.run_until(kinds.StepReached)
        case "failed":
            for _ in range(5):
                world.now += 100
                world.turn()
                world.lose_worker()
        case "trained" | "rejected":
            world.run()
        case "skipped":
            world.execute(commands.Skip(job=THE_JOB))
        case "removed":
            world.execute(commands.RemoveJob(job=THE_JOB))
    return world


def consolidation_world(status: str) -> World:
    """A world whose consolidation has this status."""
    world = World()
    world.start()
    world.add(2)
    world.execute(commands.RequestConsolidation(description=""))
    if status == "started":
        world.run_until(kinds.ConsolidationStarted)
        state = world.state
        assert state.head.checkpoint is not None
        assert state.head.weight_settings is not None
        held = DetachedCheckpoint(
            base=None, checkpoint=state.head.checkpoint, weight_settings=state.head.weight_settings
        )
        world.execute(commands.RecordBackup(backup=BACKUP, reason="", held=held, size_bytes=1, manifest_sha256=""))
    elif status in {"finished", "aborted"}:
        world.run_until(kinds.ConsolidationVerified)
        ends = ["version_published", "consolidation_finished"] if status == "finished" else ["consolidation_aborted"]
        for kind in ends:
            world.happens(event(kind, world.state))
    elif status == "published":
        world.run_until(kinds.ConsolidationVerified)
        world.happens(event("version_published", world.state))
    else:
        world.run_until(getattr(kinds, f"Consolidation{status.title().replace('_', '')}"))
    return world


def version_world(status: str) -> World:
    """A world whose only version has this status."""
    world = World()
    world.gate, world.right = "hold", 10 if status == "promoted" else 5
    world.start()
    world.add(2)
    world.execute(commands.RequestConsolidation(description=""))
    if status == "published":
        world.run_until(kinds.ConsolidationFinished)
    else:
        world.run()
    if status == "deleted":
        world.execute(commands.DiscardVersion(version="v001"))
    return world


def version_status(state: State) -> str:
    """Where the version is now."""
    held = state.evaluations.hold_of("v001")
    if held is not None:
        return held.status
    return "deleted" if state.retention.version("v001") is None else "promoted"


def consolidation_status(state: State) -> str:
    """Where the consolidation is now."""
    if state.consolidation.running is not None:
        return state.consolidation.running.status
    return "finished" if state.consolidation.request is None else "aborted"


def job_status(state: State) -> str:
    """Where the job is now."""
    job = state.job(THE_JOB)
    if job is not None:
        return job.status
    counts = state.outcomes.counts
    (ended,) = [name for name in ("trained", "rejected", "skipped", "removed") if getattr(counts, name)]
    return ended


def daemon_world(status: str, kind: str = "") -> World:
    """A world whose daemon has this status and one job waits, or is at work where the event needs that."""
    world = World()
    at_work = status in {"working", "pausing"} or (kind == "attempt_ended" and status.startswith("stopping"))
    if not status.startswith("off"):
        world.start()
    world.add(2)
    if at_work:
        world.turn()
    if kind == "version_evaluation_started":
        _publish(world, ends=status in {"idle", "paused", "stopping", "stopping_paused"})
    if kind == "consolidation_started":
        world.happens(kinds.ConsolidationRequested(description="", after_current=False, scheduled_for=None))
        if status in {"idle", "paused", "stopping", "stopping_paused"}:
            world.run_until(kinds.JobTrained)
    if status in {"off_paused", "pausing", "paused", "stopping_paused"}:
        world.execute(commands.Pause())
    if status.startswith("stopping"):
        world.execute(commands.Stop(alive=True))
    return world


def _publish(world: World, *, ends: bool) -> None:
    """Let the world have a version that is to be evaluated, if its work may end."""
    if ends:
        world.gate = "hold"
        world.execute(commands.RequestConsolidation(description=""))
        world.run_until(kinds.ConsolidationFinished)


@pytest.mark.parametrize(("status", "kind"), list(product(JOB, JOB_KINDS)))
def test_a_job_moves_as_the_table_says_and_not_otherwise(status: str, kind: str) -> None:
    """The walk over (status × kind) of the job table."""
    world = job_world(status, kind)
    state = world.state
    assert job_status(state) == status
    expected = JOB[status].get(kind)  # type: ignore[index]
    if expected is None:
        before = seen(state)
        with pytest.raises(IllegalEvent) as caught:
            evolve(state, event(kind, state))
        assert caught.value.kind == kind
        assert seen(state) == before
        assert state == world.state
    else:
        assert job_status(evolve(state, event(kind, state))) == expected


@pytest.mark.parametrize(("status", "kind"), list(product(DAEMON, DAEMON_KINDS)))
def test_the_daemon_moves_as_the_table_says_and_not_otherwise(status: str, kind: str) -> None:
    """The walk over (status × kind) of the daemon table."""
    state = daemon_world(status, kind).state
    assert state.daemon.status == status
    expected = DAEMON[status].get(kind)
    if expected is None:
        before = seen(state)
        with pytest.raises(IllegalEvent):
            evolve(state, event(kind, state))
        assert seen(state) == before
    else:
        assert evolve(state, event(kind, state)).daemon.status == expected


@pytest.mark.parametrize(("status", "kind"), list(product(CONSOLIDATION, CONSOLIDATION_KINDS)))
def test_a_consolidation_moves_as_the_table_says_and_not_otherwise(status: str, kind: str) -> None:
    """The walk over (status × kind) of the consolidation table."""
    state = consolidation_world(status).state
    assert consolidation_status(state) == status
    expected = CONSOLIDATION[status].get(kind)  # type: ignore[index]
    if expected is None:
        before = seen(state)
        with pytest.raises(IllegalEvent):
            evolve(state, event(kind, state))
        assert seen(state) == before
    else:
        assert consolidation_status(evolve(state, event(kind, state))) == expected


@pytest.mark.parametrize(("status", "kind"), list(product(VERSION, VERSION_KINDS)))
def test_a_held_version_moves_as_the_table_says_and_not_otherwise(status: str, kind: str) -> None:
    """The walk over (status × kind) of the version table. What may happen to any version may happen to one that is not
    held: the head can move to it, and it can be deleted."""
    state = version_world(status).state
    assert version_status(state) == status
    expected = VERSION[status].get(kind)  # type: ignore[index]
    if expected is not None:
        assert version_status(evolve(state, event(kind, state))) == expected
    elif status == "deleted" or kind not in {"head_moved", "version_deleted"}:
        before = seen(state)
        with pytest.raises(IllegalEvent):
            evolve(state, event(kind, state))
        assert seen(state) == before


@pytest.mark.parametrize("kind", sorted(ENDS_ATTEMPT))
def test_whatever_ends_an_attempt_frees_the_daemon(kind: str) -> None:
    """Each kind that ends an attempt leaves none running, and the daemon idle."""
    if kind in CONSOLIDATION_KINDS:
        status = next(status for status in CONSOLIDATION if kind in CONSOLIDATION[status])
        state = consolidation_world(status).state
    elif kind.startswith("version_"):
        world = version_world("published")
        world.run_until(kinds.VersionEvaluationStarted)
        state = world.state
    else:
        status = next(status for status in ("training", "preparing") if kind in JOB[status])  # type: ignore[misc]
        state = job_world(status, kind).state
    assert state.attempts.current is not None
    after = evolve(state, event(kind, state))
    assert after.attempts.current is None
    assert after.daemon.status == "idle"


def test_the_tables_name_only_kinds_that_exist() -> None:
    """`attempt_ended` alone is the daemon's own word, for each of `ENDS_ATTEMPT`."""
    known = {kind_of(kind) for kind in EVENT_TYPES}
    assert set(JOB_KINDS) <= known
    assert set(CONSOLIDATION_KINDS) <= known
    assert set(VERSION_KINDS) <= known
    assert set(DAEMON_KINDS) - {"attempt_ended"} <= known
    assert known >= ENDS_ATTEMPT


def test_every_status_is_reached_and_every_row_is_there() -> None:
    """No status is written down and never entered, none is entered and not written down."""
    for table, first in ((JOB, "queued"), (CONSOLIDATION, "started"), (VERSION, "published"), (DAEMON, "off")):
        entered = {first, *(status for row in table.values() for status in row.values())}
        assert entered == set(table)


def test_a_pause_outlives_the_process() -> None:
    """A paused daemon that stops, or is killed, starts paused."""
    world = World()
    world.start()
    world.execute(commands.Pause())
    world.start()
    assert world.state.daemon.status == "paused"
    world.execute(commands.Stop(alive=True))
    world.turn()
    assert world.state.daemon.status == "off_paused"  # type: ignore[comparison-overlap]
    world.start()
    assert world.state.daemon.status == "paused"


def test_a_worker_word_is_no_event() -> None:
    """The tables are about what is journaled; a heartbeat leads to nothing."""
    world = job_world("training")
    assert world.state.attempts.current is not None
    beat = messages.Heartbeat(attempt=world.state.attempts.current, phase="step", done=1, total=2)
    assert world.execute(beat) == []
