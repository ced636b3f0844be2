"""The rows that a job is evaluated on: of the validation set, and of its own file those that are held out.

At most `[evaluation] rows` of them, those whose hashes are the lowest: which ones depends on what they say and on
nothing else, so that the same ones are taken each time, and a larger number holds a smaller one.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from pathlib import Path

from events.settings import JobSettings
from gpu.data.encode.rows import Encoder
from gpu.data.examine import quality
from gpu.data.examine.quality import Hashes
from gpu.data.format.example import BadRow, Problem
from gpu.data.format.problems import tolerated
from gpu.data.plan.choice import AT_ONCE, Choice, encoded, is_held_out
from gpu.data.plan.chunk import Looked
from gpu.data.read import rows
from gpu.data.read.source import own_format
from gpu.errors import DataChanged


def held_out(
    path: Path,
    validation_set: Path | None,
    settings: JobSettings,
    validation: Hashes,
    encoder: Encoder,
    look: Callable[[], None] = lambda: None,
) -> Iterator[Looked]:
    """What of the file at `path`, and of the validation set, is evaluated; `look` is called again and again meanwhile.

    `validation`: what the rows of the set say, sorted. Raises DataChanged if the set is gone, OSError, and what `look`
    raises.
    """
    if not settings.evaluation.rows or not (settings.data.holdout or validation_set):
        return
    found: dict[bytes, Choice] = {}
    for choice in _candidates(path, validation_set, settings, validation, look):
        found.setdefault(choice.place, choice)
        if len(found) > 2 * settings.evaluation.rows:
            found = {each.place: each for each in _lowest(found, settings)}
    yield from encoded(_lowest(found, settings), encoder)


def _lowest(found: dict[bytes, Choice], settings: JobSettings) -> list[Choice]:
    return heapq.nsmallest(settings.evaluation.rows, found.values(), key=lambda choice: choice.place)


def _candidates(
    path: Path, validation_set: Path | None, settings: JobSettings, validation: Hashes, look: Callable[[], None]
) -> Iterator[Choice]:
    weighed = tolerated(settings.checks.rows)
    sources = [path] if settings.data.holdout else []
    for source, each in enumerate((*sources, *([validation_set] if validation_set else []))):
        try:
            data = own_format(each, settings.data) if each is validation_set else settings.data
            for number, row in enumerate(rows.read(each, data, weighed)):
                if number % AT_ONCE == 0:
                    look()
                if isinstance(row, BadRow | Problem):
                    continue
                content = quality.identity(row).content
                if each is validation_set or is_held_out(content, settings, validation):
                    yield Choice(content.to_bytes(8, "big"), source, row)
        except OSError as error:
            if each is not validation_set:
                raise
            raise DataChanged(
                f"the validation set {each} cannot be read: {error.strerror}. Bring it back, then `keepstep resume`."
            ) from error
