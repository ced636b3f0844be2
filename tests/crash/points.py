"""Every named point at which a process can be killed, and how a life comes to it.

A situation starts what is to be killed, with the environment that names the point, and does what has to be done so
that the point is reached. It returns early if the process is gone; whether it was hit, `journal.failpoints` leaves
word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from events import kinds
from events.codec import kind_of
from journal.failpoints import DAEMON, WORKER
from tests.crash.life import Life

Situation = Callable[..., None]


def working(life: Life, **environment: str) -> None:
    """There is enough to do."""
    life.start(**environment)


def arriving(life: Life, **environment: str) -> None:
    """Two files lie in the inbox."""
    life.more()
    life.more()
    life.start(**environment)


def rejecting(life: Life, **environment: str) -> None:
    """One that nobody can learn from."""
    life.put_bad()
    life.start(**environment)


def returning(life: Life, **environment: str) -> None:
    """One that came before."""
    life.put_again()
    life.start(**environment)


def adding(life: Life, **environment: str) -> None:
    """`keepstep add` is what is killed; no daemon runs."""
    name, data = life.draft()
    life.command("add", str(life.on_desk(name, data)), **environment)
    life.expect(name, data)


def added(life: Life, **environment: str) -> None:
    """`keepstep add` next to a daemon, which is killed when it finds out."""
    life.start(until_idle=False, **environment)
    if life.until(life.happened(kinds.DaemonStarted)):
        name, data = life.draft()
        assert life.command("add", str(life.on_desk(name, data))) == 0
        life.expect(name, data)


def added_again(life: Life, **environment: str) -> None:
    """The same, of a file that came before."""
    life.start(until_idle=False, **environment)
    if life.until(life.happened(kinds.DaemonStarted)):
        assert life.command("add", str(life.once_more())) == 0


def pausing(life: Life, **environment: str) -> None:
    """`keepstep pause` when training has begun."""
    life.more_slowly()
    life.start(**environment)
    if life.until(life.is_training):
        assert life.command("pause") == 0


def pausing_early(life: Life, **environment: str) -> None:
    """`keepstep pause` before the data is prepared."""
    life.start(**environment)
    if life.until(life.happened(kinds.AttemptStarted)):
        assert life.command("pause") == 0


def resuming(life: Life, **environment: str) -> None:
    """A pause, and its end, with a daemon that stays."""
    life.more_slowly()
    life.start(until_idle=False, **environment)
    if life.until(life.is_training):
        assert life.command("pause") == 0
        if life.until(life.happened(kinds.AttemptYielded)):
            assert life.command("resume") == 0


def stopping(life: Life, **environment: str) -> None:
    """`keepstep stop` when training has begun."""
    life.more_slowly()
    life.start(**environment)
    if life.until(life.is_training):
        assert life.command("stop") == 0


def skipping(life: Life, **environment: str) -> None:
    """`keepstep skip` when training has begun."""
    life.more_slowly()
    life.start(**environment)
    if life.until(life.is_training):
        assert life.command("skip") == 0


def losing_the_worker(life: Life, **environment: str) -> None:
    """The worker dies first."""
    life.more_slowly()
    life.start(**environment)
    if life.until(life.is_training):
        life.kill_worker()


def interrupted(life: Life, **environment: str) -> None:
    """An earlier daemon was killed in the middle of an attempt."""
    life.more_slowly()
    life.start()
    assert life.until(life.is_training)
    life.kill_daemon()
    life.start(**environment)


def littered(life: Life, **environment: str) -> None:
    """Half a checkpoint lies there, as a worker leaves it that dies with its daemon."""
    directory = life.home.checkpoints / ".staging-step-99999999-attempt-9999"
    directory.mkdir(exist_ok=True)
    (directory / "half").write_bytes(b"\0" * 1000)
    life.start(**environment)


def damaged(life: Life, **environment: str) -> None:
    """A bit of the newest checkpoint is not what it was."""
    if len(life.state.head.checkpoints) > 1:  # else there is nothing to go back to, and a person is asked
        life.spoil_the_head()
    life.start(**environment)


class Point(NamedTuple):
    """Where to kill."""

    name: str
    situations: Sequence[Situation]
    """Each leads there."""
    most: int
    """How often it is reached then, at least."""


YIELDS = (pausing, pausing_early)

SITUATIONS: Mapping[str, tuple[Sequence[Situation], int]] = {
    "row_prepared": ((working,), 25),
    "tokens_written": ((working,), 1),  # once for each file, whatever the number of attempts
    "tokens_kept": ((working,), 1),
    "step": ((working,), 12),
    "file_written": ((working,), 15),
    "before_manifest": ((working,), 4),
    "staging_written": ((working,), 4),
    "staging_fsynced": ((working,), 4),
    "renamed": ((working,), 4),
    "before_report": ((working,), 4),
    "reported": ((working,), 4),
    "yield_seen": (YIELDS, 1),
    "yield_saved": (YIELDS, 1),
    "yielded": (YIELDS, 1),
    "yield_asked": (YIELDS, 1),
    "arrival_moved": ((arriving,), 2),
    "arrival_copied": ((adding,), 1),
    "arrival_journaled": ((arriving, adding, returning), 1),
    "arrival_named": ((arriving, adding, returning), 1),
    "report_written": ((rejecting, returning), 1),
    "rejected_moved": ((rejecting, returning), 1),
    "worker_ended": ((losing_the_worker,), 1),
    "checkpoint_reported": ((working,), 4),
    "pruned": ((working,), 2),
    "journaled_daemon_started": ((working,), 1),
    "journaled_daemon_stopped": ((stopping,), 1),
    "journaled_pause_requested": (YIELDS, 1),
    "journaled_resumed": ((resuming,), 1),
    "journaled_stop_requested": ((stopping,), 1),
    "journaled_file_enqueued": ((added, arriving, adding), 1),
    "journaled_file_duplicate": ((added_again, returning), 1),
    "journaled_job_rejected": ((rejecting,), 1),
    "journaled_rejected_file_moved": ((rejecting,), 1),
    "journaled_step_reached": ((working,), 12),
    "journaled_checkpoint_committed": ((working,), 4),
    "journaled_checkpoint_pruned": ((working,), 2),
    "journaled_checkpoint_quarantined": ((damaged,), 1),
    "journaled_leftover_deleted": ((littered,), 1),
    "journaled_attempt_interrupted": ((interrupted,), 1),
    "journaled_attempt_yielded": (YIELDS, 1),
    "journaled_attempt_failed": ((losing_the_worker,), 1),
}
"""The others are reached wherever there is work, once at least in each attempt, and every life has two of them."""

SKIPPING = {
    "journaled_job_skip_requested": Point("journaled_job_skip_requested", (skipping,), 1),
    "journaled_job_skipped": Point("journaled_job_skipped", (skipping,), 1),
}
"""How far a job is trained that is skipped depends on the moment, so no other life can be held against this one."""

VERSIONS = [
    kind
    for kind in kinds.EVENT_TYPES
    if kind.__module__.rpartition(".")[2] in ("consolidation", "head", "retention")
    and kind is not kinds.CheckpointPruned
]

GATE = [
    kinds.VersionEvaluationRequested,
    kinds.VersionEvaluationStarted,
    kinds.VersionEvaluated,
    kinds.VersionEvaluationFailed,
    kinds.VersionHeld,
    kinds.VersionPromoted,
]

ELSEWHERE: Mapping[str, str] = {
    "home_created": "before there is a home",
    "daemon_held": "a person is needed, no work continues",
    "job_moved": "by a person, and owes nothing: tests/simulation",
    "job_held": "the same",
    "job_released": "the same",
    "job_removed": "by a person, and its file is moved as a rejected one is: tests/simulation",
    "job_failed": "five deaths in a row at the same place",
    "job_retried": "by a person, after `job_failed`",
    "divergence_detected": "must never be",
    "storage_exhausted": "the disk is full: test_full_disks.py",
    "storage_freed": "the same",
    "storage_low": "the config has limits: test_keep.py",
    "storage_recovered": "the same",
    "microbatch_split": "memory runs out within a step: tests/drills/test_memory_and_loss.py",
    "batch_skipped": "a loss runs away: the same",
    "evaluation_abandoned": "the worker hangs or fails in an evaluation: tests/drills/test_evaluation.py",
    "samples_requested": "by a person: tests/cli/commands/samples",
    "samples_put_off": "where steps take little time: tests/gpu/training/rounds/test_sampler.py",
    "samples_failed": "memory runs out in samples: tests/drills/test_samples.py",
    "samples_abandoned": "the worker hangs or dies in samples: the same",
    **dict.fromkeys(
        (kind_of(kind) for kind in kinds.EVENT_TYPES if kind.__module__.endswith(".self_correction")),
        "off by default: tests/cli/correction/test_queue_file.py, tests/drills/test_self_correction.py",
    ),
    "tasks_evaluated": "by a person: tests/cli/commands/models/test_tasks.py",
    "memory_low": "others take the memory: tests/drills/test_room_and_config.py",
    "memory_recovered": "the same",
    "config_changed": "a person edits the config: the same",
    "config_refused": "the same",
    "config_fixed": "the same",
    "journal_repaired": "by a person, no daemon runs",
    "orphan_ended": "a worker outlived its daemon, and owes nothing: tests/drills",
    "overhead_measured": "after minutes of training, and owes nothing: tests/cli/machine/test_overhead.py",
    **dict.fromkeys((kind_of(kind) for kind in VERSIONS), "of consolidations: test_consolidation.py"),
    **dict.fromkeys((kind_of(kind) for kind in GATE), "of the gate: test_gate.py"),
}
"""Events that are none of a life without trouble."""

JOURNALED = [f"journaled_{kind}" for kind in map(kind_of, kinds.EVENT_TYPES) if kind not in ELSEWHERE]
ALL: Mapping[str, Point] = {
    name: Point(name, *SITUATIONS.get(name, ((working,), 2)))
    for name in [*WORKER, *DAEMON, *JOURNALED]
    if name not in SKIPPING and name != "brought_back"
}
"""Every point that a life comes to, and that must be the same in the end as if it had not been killed there."""

IN_WORKER = list(WORKER)
OUTSIDE = [name for name in ALL if name not in WORKER]
assert set(DAEMON) - {"brought_back"} <= set(OUTSIDE)
