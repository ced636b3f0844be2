"""Prompts with a known answer, chosen from the rows of trained files by a seed.

Rows that are held out or stand in the validation set are never chosen: they measure the model. No torch.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from events.generation import ChatMessage
from events.self_correction import chosen_sources, row_key
from events.settings import JobSettings
from events.values import JobId
from gpu.data.encode.encoder import Encoder
from gpu.data.examine import quality
from gpu.data.examine.quality import Hashes
from gpu.data.format import rows
from gpu.data.format.example import Example, askable
from gpu.data.plan.selection import ROWS_AT_ONCE, is_held_out
from gpu.data.problems import tolerated_problems
from gpu.data.read.source import with_own_format
from gpu.generate.questions import Question, QuestionMaker

SPARE = 2
"""Rows that are chosen for each wanted prompt: some are too long to be encoded whole, or ask the same."""


class KnownPrompt(NamedTuple):
    """A prompt, its reference answer, and the row that it is from."""

    job: JobId
    line: int
    question: Question
    messages: list[ChatMessage]
    """The messages of the prompt."""


class _Keyed(NamedTuple):
    key: bytes
    job: JobId
    row: Example


def choose_prompts(
    data: Path,
    sources: Sequence[JobId],
    seed: int,
    count: int,
    settings: JobSettings,
    validation: Hashes,
    encoder: Encoder,
    maker: QuestionMaker,
    on_row: Callable[[], None] = lambda: None,
) -> list[KnownPrompt]:
    """Return at most `count` prompts: a pure function of the files, the seed, and what is held out.

    `validation`: the content hashes of the validation set, sorted. Raises OSError, and what `on_row` raises.
    """
    candidates = _candidates(data, chosen_sources(seed, sources), seed, settings, validation, on_row)
    chosen = heapq.nsmallest(SPARE * count, candidates, key=lambda each: each.key)
    found: dict[str, KnownPrompt] = {}
    for each, encoded in zip(chosen, encoder.encode_many([each.row for each in chosen]), strict=True):
        on_row()
        if encoded.problem is not None or encoded.long or not encoded.pieces:
            continue
        piece = encoded.pieces[-1]  # of a conversation in several pieces, the last one has the last answer
        question = maker.make(piece.ids, piece.trained)
        if question is not None:
            messages = [ChatMessage(message["role"], str(message["content"])) for message in each.row.messages[:-1]]
            found.setdefault(question.id, KnownPrompt(each.job, each.row.line, question, messages))
        if len(found) == count:
            break
    return list(found.values())


def _candidates(
    data: Path,
    sources: Sequence[JobId],
    seed: int,
    settings: JobSettings,
    validation: Hashes,
    on_row: Callable[[], None],
) -> Iterator[_Keyed]:
    tolerated = tolerated_problems(settings.checks.rows)
    for job in sources:
        path = data / f"{job}.jsonl"
        for number, row in enumerate(rows.read_rows(path, with_own_format(path, settings.data), tolerated)):
            if number % ROWS_AT_ONCE == 0:
                on_row()
            if (example := askable(row)) is not None and not is_held_out(
                quality.hash_row(example).content, settings, validation
            ):
                yield _Keyed(row_key(seed, job, example.line), job, example)
