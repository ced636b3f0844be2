"""Complete the names of jobs, versions, checkpoints and backups in the shell. Reads the state only; no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from cli.arguments import resolve

if TYPE_CHECKING:
    from core.state import State

Complete = Callable[[typer.Context, str], list[str]]


def _completes(*kinds: Callable[[State], Sequence[resolve.Candidate]]) -> Complete:
    """A completion with the names of these kinds of things; a home that cannot be read has none."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        return [name for name in _names(ctx, kinds) if name.startswith(incomplete)]

    return complete


def _names(ctx: typer.Context, kinds: Sequence[Callable[[State], Sequence[resolve.Candidate]]]) -> Iterator[str]:
    from cli.errors import exit_code_of
    from cli.home.paths import find_home
    from cli.home.snapshot_reader import load_state

    try:
        state = load_state(find_home(ctx.params.get("home"), reads_only=True))[0].state
    except Exception as error:
        if exit_code_of(error) is None:
            raise
        return
    for kind in kinds:
        yield from (each.name or each.id for each in kind(state))


job = _completes(resolve.jobs)
model = _completes(resolve.models, resolve.checkpoints)
version = _completes(resolve.versions)
target = _completes(resolve.versions_and_origin, resolve.detached)
checkpoint = _completes(resolve.checkpoints)
weights = _completes(resolve.versions, resolve.checkpoints)
backup = _completes(resolve.backups)
anything = _completes(resolve.jobs, resolve.versions, resolve.checkpoints)
