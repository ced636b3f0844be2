"""Questions with a known answer, made of encoded rows: the model gets exactly the tokens that it gets in training.

A row is encoded once, as for training, with a mark on each trained token. The last trained run is the expected answer,
and all tokens before it are the prompt. A text that is trained whole is asked to be continued. No torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from events.settings import DataSettings
from gpu.data.encode.encoder import Encoder
from gpu.data.format.example import BadRow
from gpu.data.format.rows import read_rows
from gpu.data.plan.store import Tokens
from gpu.data.problems import Problem
from gpu.data.read.source import with_own_format
from gpu.errors import WorkerError

CONTINUED_TOKENS_MAX = 64
"""Most tokens of a text that are shown to the model, which then continues it."""

_ROLES = {"user", "assistant", "system", "human", "model", "bot", "tool", "gpt"}
"""Words that a chat template writes around messages."""


class QuestionsUnusable(WorkerError):
    """A file of prompts has no row, or a row, that cannot be used."""


class Question(NamedTuple):
    """A prompt with its expected answer."""

    id: str
    """A hash of the tokens of both."""
    ids: list[int]
    """The tokens of the prompt."""
    prompt: str
    """The last message of the prompt, for people."""
    expected: str


class QuestionMaker:
    """Makes questions for one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.items()
        self._special = {*tokenizer.all_special_ids, *(token for token, each in added if each.special)}

    def make(self, ids: Sequence[int], trained: Sequence[int]) -> Question | None:
        """Return the question of an encoded row; None if nothing of it can be asked. `trained`: 1 for a trained
        token."""
        runs = [(bool(mark), len(list(run))) for mark, run in groupby(trained)]
        after = runs[-1][1] if runs and not runs[-1][0] else 0
        length = next((count for mark, count in reversed(runs) if mark), 0)
        end = len(ids) - after
        start = end - length
        if start == 0:
            start = min(end // 2, CONTINUED_TOKENS_MAX)
        prompt, expected = list(map(int, ids[:start])), list(map(int, ids[start:end]))
        if not prompt or not (text := self.decode(expected).strip()):
            return None
        digest = hashlib.sha256(repr((prompt, expected)).encode()).hexdigest()
        return Question(digest[:12], prompt, self._last_message(prompt), text)

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Return the text of tokens; `special`: with special tokens."""
        return str(
            self._tokenizer.decode(list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False)
        )

    def _last_message(self, ids: list[int]) -> str:
        """Return the last message, without what a chat template writes around it."""
        parts: list[str] = []
        for special, run in groupby(ids, key=self._special.__contains__):
            text = "" if special else self.decode(list(run)).strip()
            first, _, rest = text.partition("\n")
            text = rest.strip() if first.strip().lower() in _ROLES else text
            if text:
                parts.append(text)
        return parts[-1] if parts else self.decode(ids, special=True)


def questions_of_tokens(tokens: Tokens, count: int, maker: QuestionMaker) -> list[Question]:
    """Return the first `count` different questions of stored rows, whose order depends only on their content."""
    found: dict[str, Question] = {}
    for row in range(len(tokens)):
        start, end = tokens.span(row)
        question = maker.make(tokens.ids[start:end].tolist(), tokens.trained[start:end].tolist())
        if question is not None:
            found.setdefault(question.id, question)
        if len(found) == count:
            break
    return list(found.values())


def questions_of_file(
    path: Path,
    settings: DataSettings,
    encoder: Encoder,
    maker: QuestionMaker,
    count_max: int,
    on_row: Callable[[], None] = lambda: None,
) -> list[Question]:
    """Return the questions of a data file, in its order. Raises QuestionsUnusable, OSError, what `on_row` raises."""
    found: dict[str, Question] = {}
    for question in _each_question(path, settings, encoder, maker):
        on_row()
        found.setdefault(question.id, question)
        if len(found) > count_max:
            raise QuestionsUnusable(f"it has more than {count_max} prompts")
    if not found:
        raise QuestionsUnusable("it has no row with a prompt and an answer")
    return list(found.values())


def _each_question(path: Path, settings: DataSettings, encoder: Encoder, maker: QuestionMaker) -> Iterator[Question]:
    for row in read_rows(path, with_own_format(path, settings)):
        if isinstance(row, BadRow | Problem):
            problem = row.problems[0] if isinstance(row, BadRow) else row
            line = f"line {problem.line}: " if problem.line is not None else ""
            raise QuestionsUnusable(f"{line}{problem.what}")
        encoded = encoder.encode(row)
        if encoded.problem is not None:
            raise QuestionsUnusable(f"line {row.line}: {encoded.problem.what}")
        for piece in encoded.pieces[:1]:
            question = maker.make(piece.ids, piece.trained)
            if question is None:
                raise QuestionsUnusable(f"line {row.line}: it has no prompt before its answer")
            yield question
