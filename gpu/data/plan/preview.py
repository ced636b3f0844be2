"""Preview rows of a file as the model sees them, from the tokens that are trained.

The texts are decoded from the encoded rows, so a preview shows what training gets, with every special token that the
chat template wrote. It costs nothing for the other rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from gpu.data.examine.report import PreviewPart, PreviewPiece, PreviewRow, Reason, RowVerdict
from gpu.data.format.rows import record_as_line
from gpu.data.plan.chunk import BAD, TREATMENTS, Chunk, EncodedChunk
from gpu.data.problems import Problem, excerpt

PREVIEW_CHARACTERS = 1_200
"""Characters of a piece in a preview of several rows: about 15 lines of 80 columns."""

ROW_CHARACTERS = 1_000_000
"""Characters of a piece if one row is shown: whole, unless it is larger than a person reads."""

PREVIEW_PIECES = 3
"""Pieces of a row in a preview; a book that is split may have thousands."""


class Preview:
    """Collects previews of some rows while a file is examined."""

    def __init__(self, tokenizer: Any, numbers: range, characters: int, first: int = 1) -> None:
        """`numbers`: the numbers of the rows to show, from 1. `characters`: the most to show of a piece. `first`: the
        number of the first row that is watched."""
        self._tokenizer, self._numbers, self._characters = tokenizer, numbers, characters
        added = tokenizer.added_tokens_decoder.items()
        self._special = {*tokenizer.all_special_ids, *(token for token, each in added if each.special)}
        self._sources: dict[int, tuple[PreviewPart, ...]] = {}
        self._seen = self._added = first - 1
        self.rows: list[PreviewRow] = []

    def watch(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Yield the chunks, and keep the beginning and the end of the rows to show as they stand in the file."""
        for chunk in chunks:
            for number, record in enumerate(chunk.records, start=self._seen + 1):
                if number >= self._numbers.stop:
                    break
                if number in self._numbers:
                    text = record_as_line(record).decode(errors="backslashreplace")
                    self._sources[number] = shorten([PreviewPart(text=text)], self._characters)
            self._seen += len(chunk.records)
            yield chunk

    def add(self, chunk: EncodedChunk, held_out: Collection[int]) -> None:
        """Preview the wanted rows of the next chunk. `held_out`: the indices in it of rows that are held out."""
        first = self._added + 1
        self._added += len(chunk.treatments)
        if first >= self._numbers.stop or self._added < self._numbers.start:
            return
        ends = np.frombuffer(chunk.lengths, "<i4").cumsum().tolist()
        piece = 0
        results = zip(chunk.row_results(), chunk.treatments, strict=True)
        for index, ((result, pieces), treatment) in enumerate(results):
            spans = [(ends[at - 1] if at else 0, ends[at]) for at in range(piece, piece + pieces)]
            piece += pieces
            number = first + index
            if number not in self._numbers:
                continue
            is_held_out = index in held_out
            shown = spans if self._characters >= ROW_CHARACTERS else spans[:PREVIEW_PIECES]
            self.rows.append(
                PreviewRow(
                    row=number,
                    line=result.line,
                    verdict=_verdict(treatment, is_held_out=is_held_out),
                    tokens=result.tokens,
                    cut_tokens=result.cut_tokens,
                    reasons=tuple(map(_reason, result.problems)),
                    warnings=tuple(map(_reason, result.warnings)),
                    pieces=tuple(self._piece(chunk, *span, is_trained=not is_held_out) for span in shown),
                    omitted_pieces=len(spans) - len(shown),
                    source=() if spans else self._sources.get(number, ()),
                )
            )
            self._sources.pop(number, None)

    def _piece(self, chunk: EncodedChunk, start: int, end: int, *, is_trained: bool) -> PreviewPiece:
        ids = np.frombuffer(chunk.ids, "<i4")[start:end].tolist()
        marks = [bool(mark) and is_trained for mark in chunk.trained[start:end]]
        parts = shorten(self._parts(ids, marks), self._characters)
        return PreviewPiece(parts=parts, tokens=len(ids), trained_tokens=sum(marks))

    def _parts(self, ids: list[int], marks: list[bool]) -> list[PreviewPart]:
        """Decode consecutive tokens of one kind together."""
        kinds = [(mark, token in self._special) for mark, token in zip(marks, ids, strict=True)]
        parts, at = [], 0
        for (trained, special), run in groupby(kinds):
            end = at + sum(1 for _ in run)
            parts.append(PreviewPart(text=self._decode(ids, at, end), trained=trained, special=special))
            at = end
        return parts

    def _decode(self, ids: list[int], start: int, end: int) -> str:
        """Decode some tokens after the one before them: at the beginning of a text, some tokenizers drop a space."""
        text = self._text(ids[start:end])
        if not start:
            return text
        before, both = self._text(ids[start - 1 : start]), self._text(ids[start - 1 : end])
        return both[len(before) :] if both.startswith(before) else text

    def _text(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _verdict(treatment: int, *, is_held_out: bool) -> RowVerdict:
    if treatment == BAD:
        return "rejected"
    if TREATMENTS[treatment] == "dropped":
        return "dropped"
    return "held_out" if is_held_out else "trained"


def _reason(problem: Problem) -> Reason:
    message = f"{problem.what}: {excerpt(problem.seen)}" if problem.seen else problem.what
    return Reason(name=problem.name, message=message, advice=problem.advice)


def shorten(parts: Sequence[PreviewPart], characters: int) -> tuple[PreviewPart, ...]:
    """Return the parts; of a longer text its beginning and its end, with a gap that says what is left out."""
    total = sum(len(part.text) for part in parts)
    if total <= characters:
        return tuple(parts)
    head, tail = characters // 2, total - (characters - characters // 2)
    trained = sum(_overlap(start, start + len(part.text), head, tail) for start, part in _placed(parts) if part.trained)
    gap = PreviewPart(omitted_characters=tail - head, omitted_trained_characters=trained)
    return (*_cut(parts, 0, head), gap, *_cut(parts, tail, total))


def _placed(parts: Sequence[PreviewPart]) -> Iterator[tuple[int, PreviewPart]]:
    at = 0
    for part in parts:
        yield at, part
        at += len(part.text)


def _overlap(start: int, end: int, first: int, last: int) -> int:
    return max(0, min(end, last) - max(start, first))


def _cut(parts: Sequence[PreviewPart], first: int, last: int) -> Iterator[PreviewPart]:
    """Yield the parts of the characters from `first` to `last`."""
    for start, part in _placed(parts):
        text = part.text[max(0, first - start) : max(0, last - start)]
        if text:
            yield PreviewPart(text=text, trained=part.trained, special=part.special)
