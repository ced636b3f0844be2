"""What the guardian says of memory and of keepstep.toml, as lines for a person. A part of `narrate`."""

from __future__ import annotations

from collections.abc import Callable

from core.topics.memory import MemoryShortage, used_by_others
from events.kinds import Change, ConfigChanged, ConfigFixed, ConfigRefused, MemoryLow, MemoryRecovered

GB = 1e9

SLOW_BF16 = (
    'this processor is slow at bfloat16, so [training] precision = "bf16" computes in float32 here. Weights that '
    '[model] dtype = "bfloat16" holds stay in bfloat16 in memory.'
)
USE_FP32 = "to set what happens anyway: `keepstep config set training.precision fp32`"


def line_of(
    event: MemoryLow | MemoryRecovered | ConfigChanged | ConfigRefused | ConfigFixed, name: Callable[[str], str]
) -> str:
    """The line. `name`: a job's, by its id."""
    match event:
        case MemoryLow():
            return (
                f"waiting for memory: {want_of_memory(event)}; what runs ends behind its next commit if that lasts "
                f"{event.grace_s:.0f} s"
            )
        case MemoryRecovered():
            return f"there is memory enough again ({event.available_bytes / GB:.1f} GB)"
        case ConfigChanged():
            if event.job is None:
                return f"keepstep.toml was changed: {told(event.changes)}"
            return f"{name(event.job)} is the first under a changed keepstep.toml: {told(event.changes)}"
        case ConfigRefused():
            return f"keepstep.toml was changed and is not used: {event.reason}\n→ {event.advice}"
        case ConfigFixed():
            return "keepstep.toml can be used again"


def want_of_memory(short: MemoryLow | MemoryShortage) -> str:
    """What was measured when it began, in words."""
    others = used_by_others(
        total_bytes=short.total_bytes, available_bytes=short.available_bytes, worker_bytes=short.worker_bytes
    )
    worker = f" beside the worker's {short.worker_bytes / GB:.1f} GB" if short.worker_bytes else ""
    return f"others use {others / GB:.1f} of {short.total_bytes / GB:.1f} GB{worker}"


def told(changes: tuple[Change, ...]) -> str:
    """Keys with what they were and are."""
    return ", ".join(f"{each.key} {each.before or 'unset'} → {each.now or 'unset'}" for each in changes)
