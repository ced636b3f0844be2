"""What becomes of an encoded row that is longer than allowed, or that the model cannot take.

The rules: `[data] long` says what becomes of a row of more than `max_length` tokens, or of more than the model has
positions. What is cut off is counted. A row is never cut silently, and never refused only for its length unless
`long = "refuse"`. A token without a vector in the embedding refuses its row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from events.settings import DataSettings
from gpu.data.encode.split_rows import Encode, Piece, conversations, windows
from gpu.data.format.example import Example, Problem, Row, Text, Tokenised
from gpu.data.template.chat_template import shown
from gpu.model.limits import ModelLimits

_RESIZE = (
    "Use the tokenizer that belongs to the model, or give the embedding a row for every token "
    "(`model.resize_token_embeddings`)."
)


class Encoded(NamedTuple):
    """One example as the model sees it. `trained` has a 1 for each token that is learned."""

    ids: list[int]
    trained: Sequence[int]
    truncated: bool


@dataclass(frozen=True, slots=True)
class Encoding:
    """What became of a row."""

    pieces: tuple[Encoded, ...] = ()
    """One; none of a row that is left out or bad; several of one that was split, or whose template writes a
    conversation otherwise with each answer."""
    tokens: int = 0
    """Of all pieces, before anything was cut."""
    long: Literal["", "dropped", "truncated", "split"] = ""
    """What was done to it because it is longer than allowed; "" if it is not."""
    problem: Problem | None = None
    """Why it cannot be learned from."""
    warnings: tuple[Problem, ...] = ()
    """What is to be said of it all the same."""


class Fitter:
    """Holds rows to the `[data]` settings and to what the model takes."""

    def __init__(
        self,
        settings: DataSettings,
        limits: ModelLimits,
        vocabulary: int,
        token_of: Callable[[int], str],
        encode: Encode | None,
    ) -> None:
        """`vocabulary`: the number of tokens of the tokenizer; `token_of`: each by its id; `encode`: how a part of a
        conversation is encoded, None: there is no chat template."""
        self._settings, self._limits = settings, limits
        self._longest = limits.longest(settings.max_length)
        self._vocabulary, self._token_of, self._encode = vocabulary, token_of, encode

    def warnings(self) -> list[Problem]:
        """Where settings or tokenizer go beyond the model, whatever the data."""
        found, rows, positions = [], self._limits.embedding_rows, self._limits.positions
        if rows is not None and self._vocabulary > rows:
            what = f"the tokenizer has {self._vocabulary:,} tokens, and the embedding of the model has {rows:,} rows"
            advice = f"Rows with one of the other tokens are refused (token_out_of_range). {_RESIZE}"
            found.append(Problem("tokenizer_beyond_embedding", None, what, "", advice))
        if positions is not None and positions < self._settings.max_length:
            what = f"max_length = {self._settings.max_length}, and the model has {positions} positions"
            advice = (
                f'Rows are held to {positions} tokens, and longer ones are treated by [data] long = "'
                f'{self._settings.long}". [data] max_length = {positions} would say so in keepstep.toml, too.'
            )
            found.append(Problem("max_length_beyond_positions", None, what, "", advice))
        return found

    def fitted(self, row: Row, pieces: list[Piece]) -> Encoding:
        """The row with these pieces, held to both."""
        return self._within_limits(row, self._within_length(row, pieces))

    def _within_length(self, row: Row, pieces: list[Piece]) -> Encoding:
        limit, tokens = self._longest, sum(len(ids) for ids, _ in pieces)
        if all(len(ids) <= limit for ids, _ in pieces):
            return self._kept(row, Encoding(tokens=tokens), pieces)
        match self._settings.long:
            case "refuse":
                what = f"this row has {max(len(ids) for ids, _ in pieces)} tokens, more than {self._limit()}"
                advice = f'{self._raise("the row")} [data] long = "drop", "truncate" or "split" in keepstep.toml.'
                return Encoding(tokens=tokens, problem=Problem("too_long", row.line, what, _seen(row), advice))
            case "drop":
                return Encoding(tokens=tokens, long="dropped")
            case "truncate":
                return self._kept(row, Encoding(tokens=tokens, long="truncated"), pieces)
            case "split":
                return self._kept(row, Encoding(tokens=tokens, long="split"), self._split(row, pieces))

    def _limit(self) -> str:
        """In words."""
        if self._longest < self._settings.max_length:
            allowed = self._settings.max_length
            return f"the {self._longest} tokens that the model has positions for ([data] max_length = {allowed})"
        return f"max_length = {self._longest} tokens"

    def _raise(self, what: str) -> str:
        """The beginning of an advice."""
        longer = "" if self._longest < self._settings.max_length else "raise [data] max_length, or "
        return f"Shorten {what}, or {longer}set"

    def _kept(self, row: Row, encoding: Encoding, pieces: list[Piece]) -> Encoding:
        """The pieces, cut at the end, that have something to train.

        Nothing comes before a first token, so it cannot be predicted. A row whose answers are all cut off is too long,
        and left out as `long = "drop"` would; one that has nothing to train even before it is cut is bad.
        """
        limit = self._longest
        cut = [Encoded(ids[:limit], trained[:limit], len(ids) > limit) for ids, trained in pieces]
        kept = tuple(piece for piece in cut if any(piece.trained[1:]))
        if kept:
            return replace(encoding, pieces=kept)
        if encoding.long and any(any(trained[1:]) for _, trained in pieces):
            what = f"nothing of its answer lies within {self._limit()}, so the row is left out"
            advice = f'{self._raise("the prompt")} [data] long = "split" in keepstep.toml.'
            warning = Problem("answer_cut_off", row.line, what, _seen(row), advice)
            return replace(encoding, long="dropped", warnings=(warning,))
        return replace(encoding, problem=nothing_to_train(row, "the chat template leaves nothing of this row to train"))

    def _split(self, row: Row, pieces: list[Piece]) -> list[Piece]:
        """Where turns begin, if what lies between fits; else wherever it has to be."""
        limit = self._longest
        if isinstance(row, Example) and self._encode is not None:
            made = conversations(row, limit, self._encode)
            if made is not None:
                return made
        return [window for ids, trained in pieces for window in windows(ids, trained, limit)]

    # -- what the model takes -------------------------------------------------------------------------------------

    def _within_limits(self, row: Row, encoding: Encoding) -> Encoding:
        """The same row; refused if it has tokens that the model has no vectors for."""
        rows, trained = self._limits.embedding_rows, self._limits.trained_positions
        if rows is not None and self._vocabulary > rows:
            beyond = next((token for piece in encoding.pieces for token in piece.ids if token >= rows), None)
            if beyond is not None:
                what = (
                    f"a token has the id {beyond}, and the embedding of the model has {rows:,} rows (the tokenizer has "
                    f"{self._vocabulary:,} tokens)"
                )
                word = str(self._token_of(beyond))
                return Encoding(problem=Problem("token_out_of_range", row.line, what, word, _RESIZE))
        longest = max((len(piece.ids) for piece in encoding.pieces), default=0)
        if trained is not None and longest > trained:
            what = f"this row has {longest} tokens, and the model was trained with up to {trained}"
            advice = f"It works, and usually worse. To stay within: [data] max_length = {trained}."
            warning = Problem("beyond_trained_positions", row.line, what, _seen(row), advice)
            return replace(encoding, warnings=(*encoding.warnings, warning))
        return encoding


def nothing_to_train(row: Row, what: str, advice: str = "") -> Problem:
    """The problem of a row that would train nothing."""
    return Problem("no_trainable_tokens", row.line, what, _seen(row), advice or "Correct the line or remove it.")


def _seen(row: Row) -> str:
    match row:
        case Example():
            return str(row.messages[0]["content"]) if row.plain else shown(row)
        case Text():
            return row.text
        case Tokenised():
            return str(row.ids)
