"""The gate's policy: when a version is worse than its parent, and when the head can move to a version that is held."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from core.values import Version
from events import messages
from events.evaluation import Comparison, FileChange, Scores
from events.settings import VersionSettings

if TYPE_CHECKING:
    from core.state import State


NO_SUITES = (
    "there is nothing to evaluate it on: set [data] holdout for held-out rows, or write questions into "
    "evaluation/*.jsonl"
)
"""Why a version is held that cannot be evaluated."""


def worse_than_parent(
    scores: Scores, comparison: Comparison | None, limits: VersionSettings, name_of: Callable[[str], str]
) -> str:
    """Why the version is worse by the limits, in words; "": it is not, or it is not judged.

    `name_of`: the name of a file by its id. A file counts as forgotten if the lower end of its interval is above the
    limit, so that noise alone holds nothing.
    """
    if limits.gate == "off" or comparison is None:
        return ""
    reasons = [
        _forgotten(comparison.changes, limits.max_forgetting, name_of),
        _dropped(scores, comparison, limits.max_drop),
    ]
    return "; ".join(filter(None, reasons))


def why_not_judged(report: messages.VersionEvaluated) -> str:
    """Why the results do not say whether the version is worse; "": they do."""
    if report.problem:
        return report.problem
    if report.comparison is None:
        return "its parent no longer exists, so there is nothing to compare it with"
    if not report.scores.files and not report.scores.questions.total:
        return NO_SUITES
    return ""


def _forgotten(changes: tuple[FileChange, ...], limit: float, name_of: Callable[[str], str]) -> str:
    """What the files that are forgotten say, and the worst of them."""
    forgotten: list[tuple[float, float, str]] = []
    for each in changes:
        if isinstance(each.change, str):
            return f"the loss on held-out rows of {name_of(each.job)} is not finite"
        if each.low is not None and each.low > limit:
            forgotten.append((each.change, each.low, each.job))
    if not forgotten:
        return ""
    change, low, worst = max(forgotten)
    others = f" (and of {len(forgotten) - 1} more)" if len(forgotten) > 1 else ""
    return (
        f"the loss on held-out rows of {name_of(worst)}{others} rose by {change:.2f} nats per token (95 % "
        f"interval from {low:.2f}, max_forgetting {limit:g})"
    )


def _dropped(scores: Scores, comparison: Comparison, limit: float) -> str:
    before, after = comparison.scores.questions, scores.questions
    if not after.total or before.total != after.total:
        return ""
    if (before.right - after.right) / after.total <= limit:
        return ""
    return f"right answers fell from {before.right} to {after.right} of {after.total} (max_drop {limit:g})"


def why_not_promoted(state: State, version: Version) -> str:
    """Why the head cannot move to this version as if it had done so when it was made; "": it can."""
    head = state.head
    if state.training.in_progress:
        name = state.training.in_progress[0].name
        return f"{name} is partly trained: let it end, or `keepstep skip` it, and then try again"
    is_the_same = head.checkpoint is not None and head.checkpoint.id == version.checkpoint
    if is_the_same and head.pending_restore is None:
        return ""
    steps = head.global_step - version.global_step
    has_trained = steps > 0 and head.base == version.parent
    what = f"the head has trained {steps} steps since" if has_trained else "the head has moved since"
    return (
        f"{what}, and {version.id} does not hold that. `keepstep consolidate` makes a version that does; `keepstep "
        f"versions restore {version.id}` moves the head to {version.id} and keeps what it leaves as a checkpoint"
    )
