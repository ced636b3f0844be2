"""Advise settings for the checked files, and write them into keepstep.toml if the user agrees.

The advice keeps the rows of a step, so the learning rate stays right: `batch_size` shrinks and `gradient_accumulation`
grows by the same factor.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cli.commands.data.cost import Machine
from cli.errors import UserError
from cli.output.terminal import ATTENTION, Row
from gpu.model.training_memory import ModelShape, estimate_memory

if TYPE_CHECKING:
    from cli.home.paths import Home
    from events.settings import JobSettings
    from gpu.data.examine.report import Report

OUTLIER_FACTOR = 2
"""If the longest row exceeds the 99 % quantile by more than this factor, `max_length` covers only 99 % of the rows."""

MULTIPLE = 8
"""`max_length` is rounded to a multiple of this, which suits tensor cores."""

FAR = 100_000
"""Positions at which the estimate of the memory is a line."""

LENGTH_MIN = 8
"""The lowest allowed `max_length`."""


class Change(NamedTuple):
    """A key of keepstep.toml, and the advised value."""

    key: str
    now: int
    advised: int
    reason: str


def advise(
    reports: Sequence[Report], settings: JobSettings, shape: ModelShape | None, machine: Machine
) -> list[Change]:
    """The advised changes for files with these reports; [] if the settings suit them."""
    now, training = settings.data.max_length, settings.training
    longest = max((report.longest_tokens for report in reports), default=0)
    capacity = _capacity(shape, settings, machine, min(longest, _wanted_length(reports, now, shape)))
    if not longest or (capacity is not None and capacity < LENGTH_MIN):
        return []  # without rows, or if the model itself does not fit, no value of these keys helps
    wanted = _wanted_length(reports, now, shape)
    why_length = "rows are longer than max_length"
    if capacity is not None and capacity < wanted:
        wanted = min(wanted, max(now, _rounded_down(capacity)))
    needed = wanted if settings.data.packing else min(wanted, longest)
    if capacity is not None and capacity < needed:
        wanted, why_length = _rounded_down(capacity), "a single row of that length does not fit in memory"
        needed = wanted
    rows_per_step = training.batch_size * training.gradient_accumulation
    fitting = training.batch_size if capacity is None else min(training.batch_size, capacity // needed)
    batch_size = next(each for each in range(max(1, fitting), 0, -1) if rows_per_step % each == 0)
    changes = [
        Change("data.max_length", now, wanted, why_length),
        Change("training.batch_size", training.batch_size, batch_size, f"{needed:,} tokens a row must fit in memory"),
        Change(
            "training.gradient_accumulation",
            training.gradient_accumulation,
            rows_per_step // batch_size,
            f"a step keeps its {rows_per_step} rows",
        ),
    ]
    return [change for change in changes if change.now != change.advised]


def _wanted_length(reports: Sequence[Report], now: int, shape: ModelShape | None) -> int:
    """`max_length` for the longest row, or for 99 % of the rows if there are outliers; never less than now."""
    wanted = now
    for report in reports:
        if (found := report.quantiles) is not None:
            wanted = max(wanted, found.p99 if found.max > OUTLIER_FACTOR * found.p99 else found.max)
    if wanted > now:
        wanted = -(-wanted // MULTIPLE) * MULTIPLE
    return wanted if shape is None or shape.positions is None else max(now, min(wanted, shape.positions))


def _rounded_down(tokens: int) -> int:
    return tokens // MULTIPLE * MULTIPLE


def _capacity(shape: ModelShape | None, settings: JobSettings, machine: Machine, longest: int) -> int | None:
    """Positions of a micro-batch that fit in memory; None if the size of the model is unknown.

    Gradient checkpointing counts if it is on, and if it is "auto" and a row of `longest` tokens needs it.
    """
    if shape is None:
        return None
    wanted = settings.training.gradient_checkpointing
    capacity = _positions(shape, settings, machine, checkpoints=wanted == "on")
    if wanted == "auto" and capacity < longest:
        capacity = _positions(shape, settings, machine, checkpoints=True)
    return capacity


def _positions(shape: ModelShape, settings: JobSettings, machine: Machine, *, checkpoints: bool) -> int:
    """Positions that fit. The estimate is a line above some thousand positions, where its chunk of logits is full."""
    low, high = (
        estimate_memory(shape, settings, tokens, on_cpu=machine.on_cpu, checkpoints=checkpoints).total_bytes
        for tokens in (FAR, 2 * FAR)
    )
    slope = (high - low) / FAR
    return int(max(0.0, machine.usable_bytes - low + slope * FAR) // slope)


def advice_rows(changes: Sequence[Change], locked: Collection[str]) -> list[Row]:
    """The advice as lines of the report. `locked`: keys that cannot change now."""
    rows = []
    for place, change in enumerate(changes):
        note = "; locked until the next consolidation" if change.key in locked else ""
        text = f"{_change_text(change)}: {change.reason}{note}"
        rows.append(Row("" if place else "advice", text, ATTENTION))
    return rows


def advice_json(changes: Sequence[Change], locked: Collection[str]) -> list[dict[str, Any]]:
    """The advice for scripts."""
    return [{**change._asdict(), "locked": change.key in locked} for change in changes]


def _change_text(change: Change) -> str:
    return f"{change.key} = {change.advised} instead of {change.now}"


def refuse_without_consent(*, yes: bool, json: bool) -> None:
    """Raise UserError if nobody can be asked, before the files are checked."""
    if yes:
        return
    if json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        why = "--json asks nothing" if json else "there is no terminal to ask you"
        raise UserError(
            f"keepstep.toml was not changed, and nothing was checked: {why}", "add --yes to agree to the changes"
        )


def keys_locked_now(home: Home) -> set[str]:
    """The keys that cannot change now. Raises UserError, journal.errors.JournalError."""
    from cli.commands.common import read_state
    from cli.config.locks import locked_keys
    from cli.config.schema import load_config

    return locked_keys(read_state(home), load_config(home.config, storage=home.storage))


def adjust(home: Home, changes: Sequence[Change], locked: Collection[str], *, yes: bool) -> list[Change]:
    """Write the changes that are not locked into keepstep.toml, if the user agrees. Returns those that were made.

    Asks on the terminal unless `yes`. Raises UserError, journal.errors.JournalError, OSError.
    """
    import typer

    from cli.config.edit import set_keys

    free = [change for change in changes if change.key not in locked]
    if free and not yes and not typer.confirm(f"Write {', '.join(map(_change_text, free))} to keepstep.toml?"):
        free = []
    if free:
        set_keys(home, {change.key: str(change.advised) for change in free})
    return free


def adjusted_rows(changes: Sequence[Change], made: Sequence[Change], locked: Collection[str]) -> list[Row]:
    """The changes that `adjust` made, as lines of the report."""
    rows = [Row("changed", f"{change.key}: {change.now} → {change.advised}, from the next job on") for change in made]
    for change in changes:
        if change.key not in locked:
            continue
        text = f"{change.key} stays {change.now}: weights that are not in a version were trained with it"
        rows += [Row("locked", text, ATTENTION), Row("", "→ `keepstep consolidate` unlocks it; then run this again")]
    if not changes:
        rows.append(Row("adjust", "nothing to change: the settings suit these files"))
    elif not made:
        rows.append(Row("adjust", "keepstep.toml was not changed"))
    return rows
