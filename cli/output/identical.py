"""A clause about a file whose bytes arrived before."""

from __future__ import annotations

from cli.text import printable
from core.state import State


def duplicate_text(job: str, state: State) -> str:
    """A clause about a file whose bytes arrived before as `job`: what became of that job, and what to do."""
    rejection = state.outcomes.rejections.get(job)
    if rejection is not None:
        reason = printable(rejection.message.partition("\n")[0])
        return f"is identical to {printable(rejection.name)}, which was rejected: {reason}"
    first, short = state.job(job), job[:12]
    if first is None:
        return f"was accepted before (job {job[:12]}) and is not trained again; to retrain: `keepstep add --retrain`"
    name = printable(first.name)
    if first.status == "failed":
        return (
            f"is identical to {name}, which had failed when this file arrived (job {short}); "
            f"`keepstep retry {short}` tries it again"
        )
    return (
        f"is identical to {name}, which was in progress when this file arrived (job {short}). It is trained once, "
        f"and the result counts for both: `keepstep explain {short}`"
    )
