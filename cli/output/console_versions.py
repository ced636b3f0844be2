"""Consolidations, versions, backups and where the head goes, as lines for a person: a part of `narrate.py`."""

from __future__ import annotations

from events import kinds
from events.kinds import AnyEvent


def line_of(event: AnyEvent) -> str | None:
    """What is said of the event; None: nothing."""
    match event:
        case kinds.ConsolidationRequested():
            return f"a consolidation is asked for{f': {event.description}' if event.description else ''}"
        case kinds.ConsolidationCancelled():
            return f"no consolidation: {event.message}"
        case kinds.ConsolidationStarted():
            return f"consolidating {event.checkpoint} into {event.version}"
        case kinds.ConsolidationBackedUp():
            return "the head is backed up, and the copy was read back"
        case kinds.ConsolidationMerged():
            return f"merged{of_what_was_learned(event.applied, event.in_place)}"
        case kinds.ConsolidationVerified():
            return (
                f"it answers as what it was made of: its logits are off by {event.difference:.2%} "
                f"(rounding explains {event.tolerance:.1%} at most)"
            )
        case kinds.VersionPublished():
            return f"published versions/{event.version} ({event.size_bytes / 1e6:.1f} MB)"
        case kinds.ConsolidationAborted(failure=None):
            return f"the consolidation ended before there was a version: {event.message}; it is begun again"
        case kinds.ConsolidationAborted():
            return f"the consolidation failed ({event.failure}): {event.message}"
        case kinds.HeadMoved():
            next_to = f" beside {event.version}" if event.version and event.checkpoint else ""
            return f"going on from {event.checkpoint or event.version or 'the origin'}{next_to}"
        case kinds.CheckpointRestored():
            return f"{event.checkpoint} is back in its place"
        case kinds.VersionDeleted():
            return f"{event.version} is given up ({event.size_bytes / 1e6:.1f} MB)"
        case kinds.BackupCreated():
            return f"backed up {event.checkpoint} as {event.backup} ({event.size_bytes / 1e6:.1f} MB)"
        case kinds.BackupDeleted():
            return f"the backup {event.backup} is given up ({event.size_bytes / 1e6:.1f} MB)"
        case _:
            return None


def of_what_was_learned(applied: float | None, in_place: float | None) -> str:
    """How much of it the stored weights hold, in words."""
    if applied is None or in_place is None:
        return ""
    return f": {applied:.1%} of what was learned is in the weights (merging in place would have kept {in_place:.1%})"
