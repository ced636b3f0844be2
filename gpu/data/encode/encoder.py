"""Encode rows as token ids, and mark which of them are trained.

The rules, which tests/gpu/data/golden/ compares with what TRL trains:

- Every text is tokenised once, as a whole. A token is trained if any of its characters is (`gpu/data/encode/spans.py`).
- `gpu/data/template/chat_template.py` decides what is trained of a conversation. Where the template writes a BOS, no
  second one is added.
- A text is trained whole, with a BOS if the tokenizer adds one, and one EOS at the end.
- A prompt and its completion without a chat template are one text, prompt + completion + EOS; the last two are trained.
- Rows that come as token ids are taken unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from events.settings import DataSettings
from gpu.data.encode.fitting import EncodedRow, Fitter, nothing_to_train
from gpu.data.encode.spans import TokenizedText, token_range, with_exact_offsets
from gpu.data.encode.split_rows import Piece
from gpu.data.format.example import Example, Row, Text, Tokenised
from gpu.data.format.role_order import is_blank
from gpu.data.problems import Problem
from gpu.data.template.chat_template import ChatTemplate, NotTrainable, Rendered, messages_json
from gpu.data.template.divergence import common_prefix
from gpu.data.template.message_form import Messages
from gpu.model.limits import UNLIMITED, ModelLimits

MASK_VERSION = 2
"""Raised whenever the same row may get other tokens or other trained tokens; files are then encoded again. Version 2
tokenises prompt and completion together, and trains reasoning.

The plan of a job (`batches_sha256`) covers the tokens and masks themselves. So a job that began under an earlier
version continues if its rows still encode to the same, and is held otherwise (`core/topics/training.py`).
"""


class _Draft(NamedTuple):
    """A row before tokenising: its texts, and a function that makes pieces of their tokens."""

    texts: tuple[str, ...]
    finish: Callable[[list[TokenizedText]], list[Piece]]


class Encoder:
    """Encodes rows for one tokenizer, under the `[data]` settings and within the limits of the model. Never changes the
    tokenizer."""

    def __init__(self, tokenizer: Any, settings: DataSettings, limits: ModelLimits = UNLIMITED) -> None:
        self._tokenizer = tokenizer = with_exact_offsets(tokenizer)
        self._template = ChatTemplate(tokenizer) if tokenizer.chat_template is not None else None
        self._added = frozenset(tokenizer.added_tokens_encoder.values())
        self._vocabulary = max(len(tokenizer), max(self._added, default=-1) + 1)
        self._first = self._leading_tokens()
        encode = None if self._template is None else lambda part: self._pieces([part])[0]
        self._fitter = Fitter(settings, limits, self._vocabulary, tokenizer.convert_ids_to_tokens, encode)
        self._special = _special_token_pattern(tokenizer)

    def encode(self, row: Row) -> EncodedRow:
        """Return the tokens of `row`, or its problem."""
        return self.encode_many([row])[0]

    def encode_many(self, rows: Sequence[Row]) -> list[EncodedRow]:
        """Encode several rows; tokenising many at once is what makes it fast."""
        made = self._pieces(rows)
        return [
            EncodedRow(problem=pieces) if isinstance(pieces, Problem) else self._fitter.fit(row, pieces)
            for row, pieces in zip(rows, made, strict=True)
        ]

    def warnings(self) -> list[Problem]:
        """Return the problems of tokenizer and template that do not depend on the data."""
        return [*self._fitter.warnings(), *self._opening_warnings(), *self._end_of_turn_warnings()]

    def _opening_warnings(self) -> list[Problem]:
        find_opening_difference = None if self._template is None else self._template.find_opening_difference()
        if find_opening_difference is None:
            return []
        asked, written = find_opening_difference
        what = f"the chat template ends a prompt with {asked!r}, but writes {written!r} before an answer"
        advice = (
            "Answers are trained as the template writes them, so prompts at use differ from those in training. Begin "
            "every answer with the same reasoning block, or use a chat template that writes one."
        )
        return [Problem("opening_not_trained", None, what, "", advice)]

    def _end_of_turn_warnings(self) -> list[Problem]:
        last, is_end = self._last_trained()
        if last is None or is_end:
            return []
        what = "no end-of-turn token is trained with an answer; the last trained token is"
        advice = (
            "The model may not learn to stop. Use a chat template that ends an answer with such a token, inside of "
            "its {% generation %} block if it has one."
        )
        return [Problem("end_of_turn_not_learned", None, what, self._tokenizer.decode([last]), advice)]

    def _last_trained(self) -> tuple[int | None, bool]:
        """Return the last token that is trained with an answer, and True if it is a token that ends turns or texts.

        None if the template refuses the row that is tried; it may take others.
        """
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        (pieces,) = self._pieces([Example(0, turns, (False, True), plain=True)])
        if isinstance(pieces, Problem):
            return None, False
        ids, trained = pieces[-1]
        answer = [token for token, is_trained in zip(ids, trained, strict=True) if is_trained]
        ends = {*self._tokenizer.added_tokens_encoder.values(), self._tokenizer.eos_token_id}
        last = next(
            (token for token in reversed(answer) if token in ends or self._tokenizer.decode([token]).strip()), None
        )
        return last, last in ends

    @property
    def end_of_turn(self) -> int | None:
        """The token that ends an answer in training; None if there is none."""
        last, is_end = self._last_trained()
        return last if is_end else None

    @property
    def has_chat_template(self) -> bool:
        """False if dialogues are encoded as plain text."""
        return self._template is not None

    def encode_prompt(self, messages: Messages, *, plain: bool = False) -> list[int]:
        """Return the tokens that an answer to `messages` follows in training. Raises NotTrainable.

        Without a chat template, or if `plain`, the messages are one text, with a blank line between them, as in
        `_draft_pair`.
        """
        if self._template is not None and not plain:
            return self._ids(self._template.render_prompt(messages))
        ids = self._ids("\n\n".join(str(message["content"]) for message in messages))
        return self._missing_tokens(ids)[0] + ids

    def special_tokens_in(self, row: Row) -> list[str]:
        """Return the special tokens that the messages or tools of `row` spell out, each once.

        The tokenizer takes them for real ones, so a user's text could end the user's turn and begin the assistant's. In
        a text that is trained whole, they may be intended.
        """
        if self._special is None or not isinstance(row, Example):
            return []
        found = self._special.findall("\n".join(_strings([row.messages, row.tools])))
        return list(dict.fromkeys(found))

    def special_token_problem(self, row: Row) -> Problem | None:
        """Return the problem that `row` spells out special tokens; None if it does not."""
        tokens = self.special_tokens_in(row)
        if not tokens:
            return None
        what = "a message spells out special tokens, which the tokenizer takes for real ones"
        advice = "Remove them, or write them differently."
        return Problem("special_token_in_content", row.line, what, ", ".join(tokens), advice)

    # -- rows to pieces -------------------------------------------------------------------------------------------

    def _pieces(self, rows: Sequence[Row]) -> list[list[Piece] | Problem]:
        """Return the pieces of each row before they are cut, or its problem."""
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
            except NotTrainable as refused:
                made.append(refused.problem)
        return made

    def _draft(self, row: Row) -> _Draft | Problem:
        if problem := self._find_empty(row):
            return problem
        match row:
            case Text():
                return _Draft((self._with_eos(row.text),), self._encode_text)
            case Tokenised():
                return self._draft_tokens(row)
            case Example() if row.plain and is_blank("user", row.messages[0]["content"]):
                return self._draft_pair(row)  # an empty prompt needs no chat, as in TRL
            case Example() if self._template is not None:
                try:
                    rendered = self._template.render_example(row)
                except NotTrainable as refused:
                    return refused.problem
                return _Draft(
                    tuple(text for text, _ in rendered),
                    lambda tokens: [self._mark_trained(row, *pair) for pair in zip(rendered, tokens, strict=True)],
                )
            case Example() if row.plain:
                return self._draft_pair(row)
            case Example():
                advice = "Write rows of prompt and completion, or text; or use a model with a chat template."
                return Problem("no_chat_template", row.line, "the tokenizer has no chat template", "messages", advice)

    def _find_empty(self, row: Row) -> Problem | None:
        match row:
            case Text():
                if row.text.strip():
                    return None
            case Tokenised():
                if any(row.trained[1:]):
                    return None
                return nothing_to_train(row, "no token of the row is to be trained")
            case Example():
                answers = [message for message, trained in zip(row.messages, row.train, strict=True) if trained]
                if any(str(answer.get("content") or "").strip() or answer.get("tool_calls") for answer in answers):
                    return None
                if not answers and any(message["role"] == "assistant" for message in row.messages):
                    return nothing_to_train(row, "no answer of the row is to be trained")
        return nothing_to_train(row, "the answer of the row is empty")

    def _draft_tokens(self, row: Tokenised) -> _Draft | Problem:
        for place, token in enumerate(row.ids, start=1):
            if not 0 <= token < self._vocabulary:
                what = f"token {place} is not in the vocabulary of {self._vocabulary} tokens"
                advice = "Tokenise the data with the tokenizer of this model."
                return Problem("token_out_of_range", row.line, what, str(token), advice)
        return _Draft((), lambda _: [(row.ids, bytes(row.trained))])

    def _encode_text(self, tokens: list[TokenizedText]) -> list[Piece]:
        before, after = self._missing_tokens(tokens[0].ids)
        ids = before + tokens[0].ids + after
        return [(ids, b"\1" * len(ids))]

    def _draft_pair(self, row: Example) -> _Draft:
        """Encode a row without a chat template: one text, of which everything after the prompt is trained."""
        *before, answer = (str(message["content"]) for message in row.messages)
        prompt = "\n\n".join(before)
        text = self._with_eos(prompt + answer)

        def finish(tokens: list[TokenizedText]) -> list[Piece]:
            (made,) = tokens
            before, after = self._missing_tokens(made.ids)
            ids = before + made.ids + after
            first = len(before) + self._first_token_at(made, text, len(prompt))
            return [(ids, bytes(first) + b"\1" * (len(ids) - first))]

        return _Draft((text,), finish)

    def _first_token_at(self, tokens: TokenizedText, text: str, start: int) -> int:
        """Return the first token of the part of `text` that begins at `start`.

        A slow tokenizer does not report the positions of its tokens. The part then begins where the tokens of the whole
        diverge from those of the text before it, as in TRL.
        """
        if tokens.encoding is None:
            return common_prefix(self._ids(text[:start]), tokens.ids)
        return token_range(tokens, start, len(text), self._added)[0]

    def _mark_trained(self, row: Example, rendered: Rendered, tokens: TokenizedText) -> Piece:
        """Mark the tokens that have a character in one of the spans. Raises NotTrainable."""
        trained = bytearray(len(tokens.ids))
        for start, end in rendered.spans:
            if tokens.encoding is None:
                first, end_token = (
                    self._first_token_at(tokens, rendered.text, start),
                    self._count_tokens(row, rendered.text[:end], tokens.ids),
                )
            else:
                first, end_token = token_range(tokens, start, end, self._added)
            trained[first:end_token] = b"\1" * (end_token - first)
        return tokens.ids, bytes(trained)

    def _count_tokens(self, row: Example, text: str, ids: list[int]) -> int:
        """Return how many tokens the beginning of a text has, for a slow tokenizer. Raises NotTrainable."""
        beginning = self._ids(text)
        if ids[: len(beginning)] != beginning:
            what = "the tokenizer makes one token of the end of an answer and the beginning of the next turn"
            advice = "Use a fast tokenizer (tokenizer.json), or correct the row."
            raise NotTrainable(Problem("tokens_straddle_turns", row.line, what, messages_json(row), advice))
        return len(beginning)

    def _tokenise(self, texts: list[str]) -> list[TokenizedText]:
        if not texts:
            return []
        made = self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        encodings = made.encodings if self._tokenizer.is_fast else [None] * len(texts)
        return [TokenizedText(list(ids), encoding) for ids, encoding in zip(made["input_ids"], encodings, strict=True)]

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _with_eos(self, text: str) -> str:
        """Append the EOS to the text before tokenising, as TRL does: a tokenizer may strip spaces around it."""
        end = self._tokenizer.eos_token or ""
        return text if text.endswith(end) else text + end

    def _leading_tokens(self) -> list[int]:
        """Return the tokens that the tokenizer itself puts before each text, often a BOS."""
        plain, special = self._ids("a"), list(self._tokenizer("a")["input_ids"])
        places = range(len(special) - len(plain) + 1)
        return special[: next((at for at in places if special[at : at + len(plain)] == plain), 0)]

    def _missing_tokens(self, ids: list[int]) -> tuple[list[int], list[int]]:
        """Return the tokens that a text still needs before and after its own."""
        end = self._tokenizer.eos_token_id
        before = [] if ids[: len(self._first)] == self._first else self._first
        return before, [] if end is None or ids[-1:] == [end] else [end]


def _special_token_pattern(tokenizer: Any) -> re.Pattern[str] | None:
    """Return a pattern of the special tokens, without tokens that are only added, such as `<think>`: data may have
    those."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special = sorted((token for token in added | set(tokenizer.all_special_tokens) if token.strip()), key=len)
    return re.compile("|".join(re.escape(token) for token in reversed(special))) if special else None


def _strings(value: Any) -> Iterator[str]:
    """Yield all strings in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _strings(name)
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)
