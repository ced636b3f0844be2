"""What a person is told of a file whose very bytes arrived before."""

from __future__ import annotations

from cli.terminal import printable
from core.state import State


def identical(job: str, state: State) -> str:
    """A clause that goes after the file's name: what it is identical to, what became of that, and what to do."""
    rejection = state.rejections.get(job)
    if rejection is not None:
        return (
            f"is identical to {printable(rejection.name)}, which was rejected: "
            f"{printable(rejection.message.partition(chr(10))[0])}"
        )
    first = state.job(job)
    if first is None:
        return f"was accepted before (job {job[:12]}) and is not trained again; to train on it: `keepstep add --again`"
    name = printable(first.name)
    if first.status == "failed":
        return (
            f"is identical to {name}, which had failed when this file arrived (job {job[:12]}); "
            f"`keepstep retry {job[:12]}` tries that again"
        )
    return (
        f"is identical to {name}, which was in progress when this file arrived (job {job[:12]}). It is trained once: "
        f"what becomes of {name} holds for both: `keepstep explain {job[:12]}`"
    )
