"""Rows to token ids, and which of them are learned.

The rules, which tests/gpu/data/golden/ holds to what TRL trains:

- Of a conversation, what `gpu/data/template.py` says; the whole text is tokenised once, and a token is learned as soon
  as one of its characters is. Where the template writes a BOS, no second one is put in front.
- Text is learned whole, with a BOS where the tokenizer adds one, and one EOS at the end.
- A prompt and its completion without a chat template are prompt + completion + EOS; only the last two are learned.
- Token ids that somebody else made are taken as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from events.settings import DataSettings
from gpu.data.cut import Piece, conversations, windows
from gpu.data.example import Example, Problem, Row, Text, Tokenised
from gpu.data.template import CannotLearn, ChatTemplate, Rendered, shown

MASK_VERSION = 2
"""Raised whenever other tokens, or other learned ones, could come out of the same row: what was encoded before is then
encoded again."""


class Encoded(NamedTuple):
    """One example as the model sees it. `learned` has a 1 for each token that is learned."""

    ids: list[int]
    learned: Sequence[int]
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


class _Draft(NamedTuple):
    """A row on its way: the texts that are yet to be tokenised, and what makes pieces of their tokens."""

    texts: tuple[str, ...]
    finish: Callable[[list[_Tokens]], list[Piece]]


class _Tokens(NamedTuple):
    ids: list[int]
    encoding: Any
    """That of the `tokenizers` library, which knows where each token stands in the text; None of a slow tokenizer."""


class Encoder:
    """Encodes rows for one tokenizer, under the `[data]` settings. Only reads the tokenizer."""

    def __init__(self, tokenizer: Any, settings: DataSettings) -> None:
        self._tokenizer = tokenizer
        self._settings = settings
        self._template = ChatTemplate(tokenizer) if tokenizer.chat_template is not None else None
        self._vocabulary = len(tokenizer)
        plain, special = self._ids("a"), list(tokenizer("a")["input_ids"])
        # Some tokenizers put a BOS in front by themselves. It is added here, once, and never where one stands already.
        self._first = special[:1] if special[:1] == [tokenizer.bos_token_id] != plain[:1] else []
        self._special = _pattern(tokenizer)

    def encode(self, row: Row) -> Encoding:
        """The tokens of `row`, or what is wrong with it."""
        return self.encode_many([row])[0]

    def encode_many(self, rows: Sequence[Row]) -> list[Encoding]:
        """The same for each of `rows`; tokenising many at once is what makes it fast."""
        made = self._pieces(rows)
        return [self._fitted(row, pieces) for row, pieces in zip(rows, made, strict=True)]

    def warnings(self) -> list[Problem]:
        """What is to be said of tokenizer and template, whatever the data."""
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        (pieces,) = self._pieces([Example(0, turns, (False, True), plain=True)])
        if isinstance(pieces, Problem):
            return []  # it says no to such a row; to others it may say yes
        ids, learned = pieces[-1]
        said = [token for token, is_learned in zip(ids, learned, strict=True) if is_learned]
        ends = {*self._tokenizer.added_tokens_encoder.values(), self._tokenizer.eos_token_id}
        last = [token for token in said if token in ends or self._tokenizer.decode([token]).strip()][-1:]
        if not last or last[0] in ends:
            return []
        what = "no end-of-turn token is learned with an answer; the last token that is learned is"
        advice = (
            "The model may not learn to stop. Use a chat template that ends an answer with such a token, and has it "
            "within {% generation %} if it has that."
        )
        return [Problem("end_of_turn_not_learned", None, what, self._tokenizer.decode(last), advice)]

    def special_tokens_in(self, row: Row) -> list[str]:
        """The special tokens that stand literally in the messages or tools of `row`, each once.

        The tokenizer takes them for real ones, so that a user's text could end his turn and begin the assistant's. In
        text that is learned whole, somebody may have meant them.
        """
        if self._special is None or not isinstance(row, Example):
            return []
        found = self._special.findall("\n".join(_strings([row.messages, row.tools])))
        return list(dict.fromkeys(found))

    def special_token_problem(self, row: Row) -> Problem | None:
        """The same, in words."""
        tokens = self.special_tokens_in(row)
        if not tokens:
            return None
        what = "the content of a message has the tokenizer's special tokens in it, which would be taken for real ones"
        advice = "Remove them, or write them otherwise."
        return Problem("special_token_in_content", row.line, what, ", ".join(tokens), advice)

    # -- rows to pieces -------------------------------------------------------------------------------------------

    def _pieces(self, rows: Sequence[Row]) -> list[list[Piece] | Problem]:
        """What each row is before it is cut, or what is wrong with it."""
        drafts = [self._draft(row) for row in rows]
        texts = [text for draft in drafts if isinstance(draft, _Draft) for text in draft.texts]
        tokens = iter(self._tokenise(texts))
        made: list[list[Piece] | Problem] = []
        for draft in drafts:
            if isinstance(draft, Problem):
                made.append(draft)
                continue
            own = [next(tokens) for _ in draft.texts]
            try:
                made.append(draft.finish(own))
            except CannotLearn as refused:
                made.append(refused.problem)
        return made

    def _draft(self, row: Row) -> _Draft | Problem:
        if problem := self._says_nothing(row):
            return problem
        match row:
            case Text():
                return _Draft((row.text,), self._learned_whole)
            case Tokenised():
                return self._given(row)
            case Example() if self._template is not None:
                try:
                    rendered = self._template.rendered(row)
                except CannotLearn as refused:
                    return refused.problem
                return _Draft(
                    tuple(text for text, _ in rendered),
                    lambda tokens: [self._learned_in(row, *pair) for pair in zip(rendered, tokens, strict=True)],
                )
            case Example() if row.plain:
                *before, answer = (str(message["content"]) for message in row.messages)
                return _Draft(("\n\n".join(before), answer), self._prompt_and_completion)
            case Example():
                advice = "Use rows of prompt and completion, or text; or a model with a chat template."
                return Problem("no_chat_template", row.line, "the tokenizer has no chat template", "messages", advice)

    def _says_nothing(self, row: Row) -> Problem | None:
        match row:
            case Text():
                if row.text.strip():
                    return None
            case Tokenised():
                if any(row.learned[1:]):
                    return None
                return _nothing(row, "nothing to learn in this row, none of its tokens is to be learned")
            case Example():
                answers = [message for message, learned in zip(row.messages, row.train, strict=True) if learned]
                if any(str(answer.get("content") or "").strip() or answer.get("tool_calls") for answer in answers):
                    return None
                if not answers and any(message["role"] == "assistant" for message in row.messages):
                    return _nothing(row, "nothing to learn in this row, none of its answers is to be learned")
        return _nothing(row, "nothing to learn in this row, its answer is empty")

    def _given(self, row: Tokenised) -> _Draft | Problem:
        for place, token in enumerate(row.ids, start=1):
            if not 0 <= token < self._vocabulary:
                what = f"token {place} is not in the vocabulary, which has {self._vocabulary} tokens"
                advice = "Tokenise the data with the tokenizer of this model."
                return Problem("token_out_of_range", row.line, what, str(token), advice)
        return _Draft((), lambda _: [(row.ids, bytes(row.learned))])

    def _learned_whole(self, tokens: list[_Tokens]) -> list[Piece]:
        ids = self._with_end(self._with_first(tokens[0].ids))
        return [(ids, b"\1" * len(ids))]

    def _prompt_and_completion(self, tokens: list[_Tokens]) -> list[Piece]:
        prompt, completion = self._with_first(tokens[0].ids), self._with_end(tokens[1].ids)
        return [(prompt + completion, bytes(len(prompt)) + b"\1" * len(completion))]

    def _learned_in(self, row: Example, rendered: Rendered, tokens: _Tokens) -> Piece:
        """The tokens that have a character in one of the spans. Raises CannotLearn."""
        learned = bytearray(len(tokens.ids))
        for start, end in rendered.spans:
            if tokens.encoding is None:
                first, behind = (self._counted(row, rendered.text[:at], tokens.ids) for at in (start, end))
            else:
                first, behind = _covering(tokens.encoding, start, end)
            learned[first:behind] = b"\1" * (behind - first)
        return tokens.ids, bytes(learned)

    def _counted(self, row: Example, text: str, ids: list[int]) -> int:
        """The tokens of the beginning of a text, of a tokenizer that does not say where its tokens stand."""
        beginning = self._ids(text)
        if ids[: len(beginning)] != beginning:
            what = "the tokenizer makes one token of the end of a prompt and the beginning of the answer"
            advice = "Use a fast tokenizer (tokenizer.json), or correct the line."
            raise CannotLearn(Problem("tokens_straddle_turns", row.line, what, shown(row), advice))
        return len(beginning)

    def _tokenise(self, texts: list[str]) -> list[_Tokens]:
        if not texts:
            return []
        made = self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        encodings = made.encodings if self._tokenizer.is_fast else [None] * len(texts)
        return [_Tokens(list(ids), encoding) for ids, encoding in zip(made["input_ids"], encodings, strict=True)]

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _with_first(self, ids: list[int]) -> list[int]:
        return ids if ids[:1] == self._first else self._first + ids

    def _with_end(self, ids: list[int]) -> list[int]:
        end = self._tokenizer.eos_token_id
        return ids if end is None or ids[-1:] == [end] else [*ids, end]

    # -- pieces to the maximum length -----------------------------------------------------------------------------

    def _fitted(self, row: Row, pieces: list[Piece] | Problem) -> Encoding:
        if isinstance(pieces, Problem):
            return Encoding(problem=pieces)
        limit, tokens = self._settings.max_length, sum(len(ids) for ids, _ in pieces)
        if all(len(ids) <= limit for ids, _ in pieces):
            return self._kept(row, Encoding(tokens=tokens), pieces)
        match self._settings.long:
            case "refuse":
                what = f"this row has {max(len(ids) for ids, _ in pieces)} tokens, more than max_length = {limit}"
                advice = (
                    "Raise [data] max_length in keepstep.toml, shorten the row, or say there what is to become of "
                    'long rows: long = "drop", "truncate" or "split".'
                )
                return Encoding(tokens=tokens, problem=Problem("too_long", row.line, what, _seen(row), advice))
            case "drop":
                return Encoding(tokens=tokens, long="dropped")
            case "truncate":
                return self._kept(row, Encoding(tokens=tokens, long="truncated"), pieces)
            case "split":
                return self._kept(row, Encoding(tokens=tokens, long="split"), self._split(row, pieces))

    def _kept(self, row: Row, encoding: Encoding, pieces: list[Piece]) -> Encoding:
        """The pieces, cut at the end, that have something to learn.

        Nothing comes before a first token, so it cannot be predicted.
        """
        limit = self._settings.max_length
        cut = [Encoded(ids[:limit], learned[:limit], len(ids) > limit) for ids, learned in pieces]
        kept = tuple(piece for piece in cut if any(piece.learned[1:]))
        if kept:
            return replace(encoding, pieces=kept)
        what, advice = "the chat template leaves nothing of this row to learn", ""
        if encoding.long:
            what = f"nothing to learn is left of this row within max_length = {limit} tokens"
            advice = "Raise [data] max_length in keepstep.toml, or shorten the prompt."
        return replace(encoding, problem=_nothing(row, what, advice))

    def _split(self, row: Row, pieces: list[Piece]) -> list[Piece]:
        """Where turns begin, if what lies between fits; else wherever it has to be."""
        limit = self._settings.max_length
        if isinstance(row, Example) and self._template is not None:
            made = conversations(row, limit, lambda part: self._pieces([part])[0])
            if made is not None:
                return made
        return [window for ids, learned in pieces for window in windows(ids, learned, limit)]


def tokenizer_sha256(tokenizer: Any) -> str:
    """The fingerprint of everything that decides the tokens of a row: the tokenizer itself, and its chat template."""
    digest = hashlib.sha256()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    own = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    special = json.dumps({name: str(token) for name, token in sorted(tokenizer.special_tokens_map.items())})
    for part in (own, str(tokenizer.chat_template), special):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def _covering(encoding: Any, start: int, end: int) -> tuple[int, int]:
    """The tokens that have one of the characters from `start` to `end`: from and to."""
    first = next((token for at in range(start, end) if (token := encoding.char_to_token(at)) is not None), None)
    if first is None:
        return 0, 0
    last = next(token for at in range(end - 1, start - 1, -1) if (token := encoding.char_to_token(at)) is not None)
    # A character of several tokens is said to be in the first of them.
    while last + 1 < len(encoding) and (place := encoding.token_to_chars(last + 1)) is not None and place[0] < end:
        last += 1
    return int(first), int(last) + 1


def _pattern(tokenizer: Any) -> re.Pattern[str] | None:
    """What finds special tokens in a text; not those that are only added, as `<think>` often is: data may have them."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special = sorted((token for token in added | set(tokenizer.all_special_tokens) if token.strip()), key=len)
    return re.compile("|".join(re.escape(token) for token in reversed(special))) if special else None


def _strings(value: Any) -> Iterator[str]:
    """All strings in a JSON value, its keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _strings(name)
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


def _nothing(row: Row, what: str, advice: str = "") -> Problem:
    return Problem("no_trainable_tokens", row.line, what, _seen(row), advice or "Correct the line or remove it.")


def _seen(row: Row) -> str:
    match row:
        case Example():
            return str(row.messages[0]["content"]) if row.plain else shown(row)
        case Text():
            return row.text
        case Tokenised():
            return str(row.ids)
