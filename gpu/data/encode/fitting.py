"""Fit encoded rows to the allowed length and to the model.

`[data] long` decides what happens to a row with more than `max_length` tokens, or more than the model has positions.
Tokens that are cut are counted. A row is never cut silently, and never refused only for its length unless `long =
"refuse"`. A token without a vector in the embedding refuses its row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from events.settings import DataSettings
from gpu.data.encode.split_rows import Encode, Piece, split_conversation, split_into_windows
from gpu.data.format.example import Example, Row, Text, Tokenised
from gpu.data.problems import Problem
from gpu.data.template.chat_template import messages_json
from gpu.model.limits import ModelLimits

_RESIZE = (
    "Use the tokenizer of the model, or give the embedding a row for every token (`model.resize_token_embeddings`)."
)


class EncodedPiece(NamedTuple):
    """One example as the model sees it. `trained` has a 1 for each trained token."""

    ids: list[int]
    trained: Sequence[int]
    truncated: bool


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """The result of encoding a row."""

    pieces: tuple[EncodedPiece, ...] = ()
    """One piece, as a rule. None for a dropped or bad row. Several for a split row, or if the template writes a
    conversation differently with each answer."""
    tokens: int = 0
    """Tokens of all pieces before anything was cut."""
    long: Literal["", "dropped", "truncated", "split"] = ""
    """The way the row was shortened; "" if it is not too long."""
    problem: Problem | None = None
    """The reason that the row cannot be trained."""
    warnings: tuple[Problem, ...] = ()
    """Warnings about a row that can be trained."""


class Fitter:
    """Fits rows to the `[data]` settings and to the model."""

    def __init__(
        self,
        settings: DataSettings,
        limits: ModelLimits,
        vocabulary: int,
        token_of: Callable[[int], str],
        encode: Encode | None,
    ) -> None:
        """`vocabulary`: the number of tokens of the tokenizer. `token_of`: returns a token by its id. `encode`: encodes
        a part of a conversation; None if there is no chat template."""
        self._settings, self._limits = settings, limits
        self._longest = limits.longest(settings.max_length)
        self._vocabulary, self._token_of, self._encode = vocabulary, token_of, encode

    def warnings(self) -> list[Problem]:
        """Return the warnings that settings or tokenizer exceed the model, whatever the data."""
        found, rows, positions = [], self._limits.embedding_rows, self._limits.positions
        if rows is not None and self._vocabulary > rows:
            what = f"the tokenizer has {self._vocabulary:,} tokens, but the embedding of the model has {rows:,} rows"
            advice = f"Rows with one of the other tokens are refused (token_out_of_range). {_RESIZE}"
            found.append(Problem("tokenizer_beyond_embedding", None, what, "", advice))
        if positions is not None and positions < self._settings.max_length:
            what = f"max_length = {self._settings.max_length}, but the model has {positions} positions"
            advice = (
                f'Rows may have {positions} tokens; [data] long = "{self._settings.long}" applies to longer ones. '
                f"Set [data] max_length = {positions} in keepstep.toml."
            )
            found.append(Problem("max_length_beyond_positions", None, what, "", advice))
        return found

    def fit(self, row: Row, pieces: list[Piece]) -> EncodedRow:
        """Return the row with these pieces, fit to both."""
        return self._within_limits(row, self._within_length(row, pieces))

    def _within_length(self, row: Row, pieces: list[Piece]) -> EncodedRow:
        limit, tokens = self._longest, sum(len(ids) for ids, _ in pieces)
        if all(len(ids) <= limit for ids, _ in pieces):
            return self._cut(row, EncodedRow(tokens=tokens), pieces)
        match self._settings.long:
            case "refuse":
                what = f"the row has {max(len(ids) for ids, _ in pieces)} tokens, more than {self._limit()}"
                advice = (
                    f'{self._shorten_or_raise("the row")} [data] long = "drop", "truncate" or "split" in keepstep.toml.'
                )
                return EncodedRow(tokens=tokens, problem=Problem("too_long", row.line, what, _row_excerpt(row), advice))
            case "drop":
                return EncodedRow(tokens=tokens, long="dropped")
            case "truncate":
                return self._cut(row, EncodedRow(tokens=tokens, long="truncated"), pieces)
            case "split":
                return self._cut(row, EncodedRow(tokens=tokens, long="split"), self._split(row, pieces))

    def _limit(self) -> str:
        """Return the limit in words."""
        if self._longest < self._settings.max_length:
            allowed = self._settings.max_length
            return f"the {self._longest} tokens that the model has positions for ([data] max_length = {allowed})"
        return f"max_length = {self._longest} tokens"

    def _shorten_or_raise(self, what: str) -> str:
        """Return the beginning of an advice."""
        longer = "" if self._longest < self._settings.max_length else "raise [data] max_length, or "
        return f"Shorten {what}, or {longer}set"

    def _cut(self, row: Row, encoded: EncodedRow, pieces: list[Piece]) -> EncodedRow:
        """Return the row with those pieces, cut at the end, that have something to train.

        Nothing predicts the first token, so it is not trained. A row whose answers are all cut off is dropped, as with
        `long = "drop"`. A row with nothing to train even before it is cut is bad.
        """
        limit = self._longest
        cut = [EncodedPiece(ids[:limit], trained[:limit], len(ids) > limit) for ids, trained in pieces]
        kept = tuple(piece for piece in cut if any(piece.trained[1:]))
        if kept:
            return replace(encoded, pieces=kept)
        if encoded.long and any(any(trained[1:]) for _, trained in pieces):
            what = f"the whole answer lies beyond {self._limit()}, so keepstep drops the row"
            advice = f'{self._shorten_or_raise("the prompt")} [data] long = "split" in keepstep.toml.'
            warning = Problem("answer_cut_off", row.line, what, _row_excerpt(row), advice)
            return replace(encoded, long="dropped", warnings=(warning,))
        return replace(encoded, problem=nothing_to_train(row, "the chat template leaves nothing of the row to train"))

    def _split(self, row: Row, pieces: list[Piece]) -> list[Piece]:
        """Split at the beginning of turns if the parts between fit; else at any token."""
        limit = self._longest
        if isinstance(row, Example) and self._encode is not None:
            made = split_conversation(row, limit, self._encode)
            if made is not None:
                return made
        return [window for ids, trained in pieces for window in split_into_windows(ids, trained, limit)]

    # -- what the model takes -------------------------------------------------------------------------------------

    def _within_limits(self, row: Row, encoded: EncodedRow) -> EncodedRow:
        """Refuse the row if it has tokens for which the model has no vectors; warn if it is longer than those in
        pretraining."""
        rows, trained = self._limits.embedding_rows, self._limits.trained_positions
        if rows is not None and self._vocabulary > rows:
            beyond = next((token for piece in encoded.pieces for token in piece.ids if token >= rows), None)
            if beyond is not None:
                what = (
                    f"a token has the id {beyond}, but the embedding of the model has {rows:,} rows (the tokenizer "
                    f"has {self._vocabulary:,} tokens)"
                )
                word = str(self._token_of(beyond))
                return EncodedRow(problem=Problem("token_out_of_range", row.line, what, word, _RESIZE))
        longest = max((len(piece.ids) for piece in encoded.pieces), default=0)
        if trained is not None and longest > trained:
            what = f"the row has {longest} tokens, but the model was trained with at most {trained}"
            advice = f"Quality usually suffers. To stay within the trained length, set [data] max_length = {trained}."
            warning = Problem("beyond_trained_positions", row.line, what, _row_excerpt(row), advice)
            return replace(encoded, warnings=(*encoded.warnings, warning))
        return encoded


def nothing_to_train(row: Row, what: str, advice: str = "") -> Problem:
    """Return the problem of a row that would train nothing."""
    return Problem("no_trainable_tokens", row.line, what, _row_excerpt(row), advice or "Correct the row or remove it.")


def _row_excerpt(row: Row) -> str:
    match row:
        case Example():
            return str(row.messages[0]["content"]) if row.plain else messages_json(row)
        case Text():
            return row.text
        case Tokenised():
            return str(row.ids)
