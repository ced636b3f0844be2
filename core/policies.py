"""What keepstep does by itself, one function a policy. Change a rule here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

from msgspec.structs import replace

from core.meaning import differences
from core.state import State
from core.versions import Backup, Checkpoint, Meaning, Version
from events.settings import JobSettings
from events.values import Failure

ATTEMPTS_WITHOUT_PROGRESS = 5
"""A job that fails this often without one more committed step is given up: with the waits below, a passing trouble
(a busy GPU, a full memory) has half a minute to pass, and a night is not spent on one bad file."""

FIRST_WAIT_S = 2.0
LONGEST_WAIT_S = 60.0

PERSON_NEEDED: frozenset[Failure] = frozenset({"model", "storage", "data", "checkpoint", "plan"})
"""Failures that are not the job's fault and will not pass by themselves: the job waits, and so does the queue.
("checkpoint": it is whole and does not fit; one that is damaged is set aside without a person. "disk_full" is not
among them: it passes when there is room, and the daemon sees that by itself.)"""

CHECKPOINTS_OF_ROOM = 2
"""The next checkpoint, and once more as much: it is written beside the ones that are kept before retention gives one
up, and it may be larger than those before it (another optimizer, other settings)."""

DAY_S = 86_400.0

MARGIN_BYTES = 8 * 2**20
"""For everything but checkpoints: the journal between two of them and its reserve, a snapshot and a status file beside
the ones that they replace. Together far below this; and a disk with less room would be full again at once."""


JITTER = 0.25
"""Of a wait, more or less: what fails at the same beat as something else does not meet it again each time."""


def retry_wait_s(failures: int, attempt: int) -> float | None:
    """How long to wait after the n-th failure in a row without progress; None: give the job up.

    About 2, 4, 8, 16 seconds. How far from that follows from the number of the attempt that failed, so that the same
    history gives the same waits.

    >>> [retry_wait_s(n, attempt=7) for n in (1, 2, 5)]
    [1.917, 3.834, None]
    """
    if failures >= ATTEMPTS_WITHOUT_PROGRESS:
        return None
    share = crc32(b"%d" % attempt) / 2**32  # evenly from 0 to 1
    wait_s = FIRST_WAIT_S * 2.0 ** (failures - 1) * (1 - JITTER + 2 * JITTER * share)
    return round(min(LONGEST_WAIT_S, wait_s), 3)


REPLAYED_FILES = 64
"""Rows are mixed in from so many of the files that were learned last: two months of nights, and a state that does not
grow with the years."""


def with_sources(settings: JobSettings, trained: Sequence[str], job: str) -> JobSettings:
    """The settings with the earlier files that rows are mixed in from, if any are to be."""
    if not settings.data.replay:
        return settings
    earlier = tuple(each for each in trained if each != job)
    return replace(settings, sources=replace(settings.sources, replay=earlier))


def carries_optimizer(settings: JobSettings, step: int) -> bool:
    """Whether AdamW's moments are taken along when a job goes on behind its `step`: always, unless it begins there and
    was told to begin anew."""
    return settings.training.optimizer == "carry" or step > 0


def is_due(retry_at: float | None, now: float) -> bool:
    """Whether a job that was to wait has waited. Longer than the longest wait means that the clock was set back."""
    return retry_at is None or not 0.0 < retry_at - now <= LONGEST_WAIT_S


def checkpoints_to_prune(
    checkpoints: Sequence[Checkpoint], keep: int, every_steps: int = 0, begin: int = 0
) -> Sequence[Checkpoint]:
    """Which checkpoints retention gives up, oldest first: all but the newest `keep`, and never the head.

    With `every_steps`, the first one at or behind each multiple of it stays too. `begin` is the global step that the
    branch begins at. (One that a quarantine made the first of its multiple was kept already, or is young.)
    """
    milestones, last = set(), begin
    for checkpoint in checkpoints:
        if every_steps and checkpoint.global_step // every_steps > last // every_steps:
            milestones.add(checkpoint.id)
        last = checkpoint.global_step
    older = checkpoints[: max(0, len(checkpoints) - max(1, keep))]
    return [checkpoint for checkpoint in older if checkpoint.id not in milestones]


def room_wanted(state: State) -> int:
    """How many bytes must be free before work goes on after the disk was full.

    The next checkpoint is judged by those that are kept; before the first one nothing is known of its size.
    """
    largest = max((checkpoint.size_bytes for checkpoint in state.checkpoints), default=0)
    return CHECKPOINTS_OF_ROOM * largest + MARGIN_BYTES


def why_version_stays(state: State, version: Version) -> str | None:
    """Why this version cannot be given up; None if it can."""
    if version.id == state.base:
        return "the head stands on it; `keepstep versions restore` another one first"
    for each in state.versions:
        if each.parent == version.id:
            return f"{each.id} is built on it; delete that one first, if you must"
    for left in state.left:
        if left.base == version.id:
            return (
                f"{left.checkpoint.id} was learned beside it and is in no version; delete that one first, if you must"
            )
    return None


def versions_to_delete(state: State, keep: int) -> Sequence[Version]:
    """Which versions retention gives up, the oldest first: all but the newest `keep` (0: none), and never what the
    head, or something that was left behind, was learned beside. What was learned for a version that goes stays in those
    that were built on it: each holds all that it was made of."""
    if keep == 0:
        return ()
    needed = {state.base, *(left.base for left in state.left)}
    return [version for version in state.versions[: max(0, len(state.versions) - keep)] if version.id not in needed]


def backups_to_delete(state: State, *, keep: int, days: float, now: float) -> Sequence[Backup]:
    """Which backups go, the oldest first: those of more than `days`, but the newest `keep`, at least one, stay."""
    old = now - days * DAY_S
    older = state.backups[: max(0, len(state.backups) - max(1, keep))]
    return [backup for backup in older if backup.made_at <= old and backup.id != state.fetch]


def meaning_conflict(trained: Meaning | None, wanted: JobSettings, *, learning: bool = True) -> str | None:
    """Why what has been learned cannot go on under the wanted settings; None if it can.

    The rules are those of `core.meaning`.
    """
    found = [
        f"{each.key} is {_shown(each.wanted)}, what was learned so far has {_shown(each.trained)}"
        for each in differences(trained, wanted, learning=learning)
    ]
    return "; ".join(found) or None


def environment_changes(before: dict[str, str], now: dict[str, str]) -> tuple[str, ...]:
    """What is not as it was when weights were last trained, in words; nothing before the first training."""
    if not before:
        return ()
    return tuple(
        f"{name}: {before.get(name, 'none')} → {now.get(name, 'none')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    )


def _shown(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
