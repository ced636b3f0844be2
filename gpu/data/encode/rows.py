"""Rows to token ids, and which of them are learned.

The rules, which tests/gpu/data/golden/ holds to what TRL trains:

- Every text is tokenised once, as a whole, and a token is trained as soon as one of its characters is
  (`gpu/data/encode/spans.py`).
- Of a conversation, what `gpu/data/template/chat_template.py` says. Where the template writes a BOS, no second one is
  put in front.
- Text is trained whole, with a BOS where the tokenizer adds one, and one EOS at the end.
- A prompt and its completion without a chat template are one text, prompt + completion + EOS; the last two are trained.
- Token ids that somebody else made are taken as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from events.settings import DataSettings
from gpu.data.encode.fitting import Encoding, Fitter, nothing_to_train
from gpu.data.encode.spans import Tokens, common_prefix, covering, with_exact_offsets
from gpu.data.encode.split_rows import Piece
from gpu.data.format.example import Example, Problem, Row, Text, Tokenised
from gpu.data.format.role_order import is_empty
from gpu.data.template.chat_template import ChatTemplate, NotTrainable, Rendered, shown
from gpu.model.limits import UNLIMITED, ModelLimits

MASK_VERSION = 2
"""Raised whenever the same row may give other tokens, or train other ones: files are then encoded again. 2: prompt and
completion are tokenised together; reasoning is trained.

The plan of a job (`batches_sha256`) is made of the tokens and masks themselves. So a job that began under an earlier
version continues if its rows still give the same, and is held otherwise (`core/reports.py`).
"""


class _Draft(NamedTuple):
    """A row on its way: the texts that are yet to be tokenised, and what makes pieces of their tokens."""

    texts: tuple[str, ...]
    finish: Callable[[list[Tokens]], list[Piece]]


class Encoder:
    """Encodes rows for one tokenizer, under the `[data]` settings and within what the model takes. Only reads the
    tokenizer."""

    def __init__(self, tokenizer: Any, settings: DataSettings, limits: ModelLimits = UNLIMITED) -> None:
        self._tokenizer = tokenizer = with_exact_offsets(tokenizer)
        self._template = ChatTemplate(tokenizer) if tokenizer.chat_template is not None else None
        self._added = frozenset(tokenizer.added_tokens_encoder.values())
        self._vocabulary = max(len(tokenizer), max(self._added, default=-1) + 1)
        self._first = self._put_first()
        encode = None if self._template is None else lambda part: self._pieces([part])[0]
        self._fitter = Fitter(settings, limits, self._vocabulary, tokenizer.convert_ids_to_tokens, encode)
        self._special = _pattern(tokenizer)

    def encode(self, row: Row) -> Encoding:
        """The tokens of `row`, or what is wrong with it."""
        return self.encode_many([row])[0]

    def encode_many(self, rows: Sequence[Row]) -> list[Encoding]:
        """The same for each of `rows`; tokenising many at once is what makes it fast."""
        made = self._pieces(rows)
        return [
            Encoding(problem=pieces) if isinstance(pieces, Problem) else self._fitter.fitted(row, pieces)
            for row, pieces in zip(rows, made, strict=True)
        ]

    def warnings(self) -> list[Problem]:
        """What is to be said of tokenizer and template, whatever the data."""
        return [*self._fitter.warnings(), *self._of_opening(), *self._of_end()]

    def _of_opening(self) -> list[Problem]:
        openings = None if self._template is None else self._template.openings()
        if openings is None:
            return []
        asked, written = openings
        what = f"the chat template ends a prompt with {asked!r}, and writes {written!r} before an answer"
        advice = (
            "Answers are trained as it writes them, so the model is asked in another way than it is trained. Begin "
            "every answer with the same reasoning block, or use a chat template that writes one."
        )
        return [Problem("opening_not_trained", None, what, "", advice)]

    def _of_end(self) -> list[Problem]:
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        (pieces,) = self._pieces([Example(0, turns, (False, True), plain=True)])
        if isinstance(pieces, Problem):
            return []  # it says no to such a row; to others it may say yes
        ids, trained = pieces[-1]
        said = [token for token, is_trained in zip(ids, trained, strict=True) if is_trained]
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
            except NotTrainable as refused:
                made.append(refused.problem)
        return made

    def _draft(self, row: Row) -> _Draft | Problem:
        if problem := self._says_nothing(row):
            return problem
        match row:
            case Text():
                return _Draft((self._with_end(row.text),), self._trained_whole)
            case Tokenised():
                return self._given(row)
            case Example() if row.plain and is_empty("user", row.messages[0]["content"]):
                return self._prompt_and_completion(row)  # as TRL does: a question that is none needs no chat
            case Example() if self._template is not None:
                try:
                    rendered = self._template.rendered(row)
                except NotTrainable as refused:
                    return refused.problem
                return _Draft(
                    tuple(text for text, _ in rendered),
                    lambda tokens: [self._trained_in(row, *pair) for pair in zip(rendered, tokens, strict=True)],
                )
            case Example() if row.plain:
                return self._prompt_and_completion(row)
            case Example():
                advice = "Use rows of prompt and completion, or text; or a model with a chat template."
                return Problem("no_chat_template", row.line, "the tokenizer has no chat template", "messages", advice)

    def _says_nothing(self, row: Row) -> Problem | None:
        match row:
            case Text():
                if row.text.strip():
                    return None
            case Tokenised():
                if any(row.trained[1:]):
                    return None
                return nothing_to_train(row, "nothing to learn in this row, none of its tokens is to be learned")
            case Example():
                answers = [message for message, trained in zip(row.messages, row.train, strict=True) if trained]
                if any(str(answer.get("content") or "").strip() or answer.get("tool_calls") for answer in answers):
                    return None
                if not answers and any(message["role"] == "assistant" for message in row.messages):
                    return nothing_to_train(row, "nothing to learn in this row, none of its answers is to be learned")
        return nothing_to_train(row, "nothing to learn in this row, its answer is empty")

    def _given(self, row: Tokenised) -> _Draft | Problem:
        for place, token in enumerate(row.ids, start=1):
            if not 0 <= token < self._vocabulary:
                what = f"token {place} is not in the vocabulary, which has {self._vocabulary} tokens"
                advice = "Tokenise the data with the tokenizer of this model."
                return Problem("token_out_of_range", row.line, what, str(token), advice)
        return _Draft((), lambda _: [(row.ids, bytes(row.trained))])

    def _trained_whole(self, tokens: list[Tokens]) -> list[Piece]:
        before, after = self._put_around(tokens[0].ids)
        ids = before + tokens[0].ids + after
        return [(ids, b"\1" * len(ids))]

    def _prompt_and_completion(self, row: Example) -> _Draft:
        """A row for a tokenizer without a chat template: one text, of which all after the prompt is trained."""
        *before, answer = (str(message["content"]) for message in row.messages)
        prompt = "\n\n".join(before)
        text = self._with_end(prompt + answer)

        def finish(tokens: list[Tokens]) -> list[Piece]:
            (made,) = tokens
            before, after = self._put_around(made.ids)
            ids = before + made.ids + after
            first = len(before) + self._first_of(made, text, len(prompt))
            return [(ids, bytes(first) + b"\1" * (len(ids) - first))]

        return _Draft((text,), finish)

    def _first_of(self, tokens: Tokens, text: str, start: int) -> int:
        """The first token of the part of `text` that begins at `start`. A slow tokenizer does not say where its tokens
        stand: as in TRL, the part then begins where its tokens and those of the text before it part."""
        if tokens.encoding is None:
            return common_prefix(self._ids(text[:start]), tokens.ids)
        return covering(tokens, start, len(text), self._added)[0]

    def _trained_in(self, row: Example, rendered: Rendered, tokens: Tokens) -> Piece:
        """The tokens that have a character in one of the spans. Raises CannotLearn."""
        trained = bytearray(len(tokens.ids))
        for start, end in rendered.spans:
            if tokens.encoding is None:
                first, end_token = (
                    self._first_of(tokens, rendered.text, start),
                    self._counted(row, rendered.text[:end], tokens.ids),
                )
            else:
                first, end_token = covering(tokens, start, end, self._added)
            trained[first:end_token] = b"\1" * (end_token - first)
        return tokens.ids, bytes(trained)

    def _counted(self, row: Example, text: str, ids: list[int]) -> int:
        """The tokens of the beginning of a text, of a tokenizer that does not say where its tokens stand."""
        beginning = self._ids(text)
        if ids[: len(beginning)] != beginning:
            what = "the tokenizer makes one token of the end of an answer and the beginning of the next turn"
            advice = "Use a fast tokenizer (tokenizer.json), or correct the line."
            raise NotTrainable(Problem("tokens_straddle_turns", row.line, what, shown(row), advice))
        return len(beginning)

    def _tokenise(self, texts: list[str]) -> list[Tokens]:
        if not texts:
            return []
        made = self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        encodings = made.encodings if self._tokenizer.is_fast else [None] * len(texts)
        return [Tokens(list(ids), encoding) for ids, encoding in zip(made["input_ids"], encodings, strict=True)]

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _with_end(self, text: str) -> str:
        """The EOS is part of the text, as TRL has it: a tokenizer may strip spaces around it."""
        end = self._tokenizer.eos_token or ""
        return text if text.endswith(end) else text + end

    def _put_first(self) -> list[int]:
        """The tokens that the tokenizer puts before each text by itself, as many put a BOS."""
        plain, special = self._ids("a"), list(self._tokenizer("a")["input_ids"])
        places = range(len(special) - len(plain) + 1)
        return special[: next((at for at in places if special[at : at + len(plain)] == plain), 0)]

    def _put_around(self, ids: list[int]) -> tuple[list[int], list[int]]:
        """The tokens that a text needs before and after its own, where they are not there already."""
        end = self._tokenizer.eos_token_id
        before = [] if ids[: len(self._first)] == self._first else self._first
        return before, [] if end is None or ids[-1:] == [end] else [end]


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
