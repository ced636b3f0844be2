"""Complete the names of jobs, versions, checkpoints and backups in the shell. Reads the state only; no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from cli.arguments import resolve

if TYPE_CHECKING:
    from core.state import State
    from projections.answers.samples import SamplesChart

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


def _sampled(names: Callable[[SamplesChart], Iterable[str]]) -> Complete:
    """A completion with names from the samples; a home that cannot be read has none."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        from cli.errors import exit_code_of
        from cli.home.paths import find_home
        from cli.home.snapshot_reader import read_samples

        try:
            chart = read_samples(find_home(ctx.params.get("home"), reads_only=True))
        except Exception as error:
            if exit_code_of(error) is None:
                raise
            return []
        return [name for name in names(chart) if name.startswith(incomplete)]

    return complete


def correction_round(ctx: typer.Context, incomplete: str) -> list[str]:
    """The numbers of the rounds of self-correction; a home that cannot be read has none."""
    from cli.errors import exit_code_of
    from cli.home.paths import find_home
    from cli.home.snapshot_reader import read_correction

    try:
        chart = read_correction(find_home(ctx.params.get("home"), reads_only=True))
    except Exception as error:
        if exit_code_of(error) is None:
            raise
        return []
    return [str(each.round) for each in chart.rounds if str(each.round).startswith(incomplete)]


sample_step = _sampled(lambda chart: [str(each.global_step) for each in chart.rounds])
sample_prompt = _sampled(lambda chart: [each.prompt_id[:6] for each in chart.prompts])
job = _completes(resolve.jobs)
model = _completes(resolve.models, resolve.checkpoints)
version = _completes(resolve.versions)
held = _completes(resolve.held_versions)
target = _completes(resolve.versions_and_origin, resolve.detached)
checkpoint = _completes(resolve.checkpoints)
weights = _completes(resolve.versions, resolve.checkpoints)
backup = _completes(resolve.backups)
anything = _completes(resolve.jobs, resolve.versions, resolve.checkpoints)
