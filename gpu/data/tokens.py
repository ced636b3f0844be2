"""Rows to token ids, and which of them are learned.

Only what the assistant says is learned, its end-of-turn included: the prompt, the role headers and whatever the
template puts between turns are context. A template says so itself with `{% generation %}`; for one that does not, the
assistant's part is what a turn adds to the prompt before it, and that is *checked*: where the tokens before the turn
are not the beginning of the tokens after it, the row is refused rather than learned wrongly.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, NamedTuple

from jinja2 import TemplateError

from gpu.data.rows import Conversation, Pair, Row, Text, reject
from gpu.errors import RowRejected

_GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Encoded(NamedTuple):
    """A row as the model sees it. `learned` has a 1 for each token that is learned."""

    ids: list[int]
    learned: list[int]
    truncated: bool


class Encoder:
    """Encodes rows for one tokenizer and one maximum length."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._has_template = tokenizer.chat_template is not None
        self._marks_generation = bool(_GENERATION_MARK.search(str(tokenizer.chat_template)))
        plain, special = self._ids("a"), list(tokenizer("a")["input_ids"])
        # Some tokenizers put a BOS in front by themselves. It is added here, once, and never where one stands already.
        self._first = special[:1] if special[:1] == [tokenizer.bos_token_id] != plain[:1] else []

    def encode(self, row: Row) -> Encoded:
        """The tokens of `row`, cut to the maximum length at the end. Raises RowRejected."""
        ids, learned = self._encode(row)
        truncated = len(ids) > self._max_length
        ids, learned = ids[: self._max_length], learned[: self._max_length]
        # Nothing comes before the first token, so it cannot be predicted.
        if not any(learned[1:]) or self._says_nothing(row):
            raise self._nothing_learned(row, truncated)
        return Encoded(ids, learned, truncated)

    def _encode(self, row: Row) -> tuple[list[int], list[int]]:
        match row:
            case Text():
                ids = self._with_end(self._with_first(self._ids(row.text)))
                return ids, [1] * len(ids)
            case Pair() if not self._has_template:
                prompt, completion = self._with_first(self._ids(row.prompt)), self._with_end(self._ids(row.completion))
                return prompt + completion, [0] * len(prompt) + [1] * len(completion)
            case Pair():
                turns = [("user", row.prompt), ("assistant", row.completion)]
                return self._encode_turns(row, [{"role": role, "content": content} for role, content in turns])
            case Conversation() if not self._has_template:
                advice = "Use rows of prompt and completion, or text; or a model with a chat template."
                raise reject("no_chat_template", row.line, "the tokenizer has no chat template", "messages", advice)
            case Conversation():
                return self._encode_turns(row, row.messages)

    def _encode_turns(self, row: Row, messages: list[dict[str, str]]) -> tuple[list[int], list[int]]:
        if self._marks_generation:
            marked = self._apply(row, messages, return_assistant_tokens_mask=True)
            return list(marked["input_ids"]), list(marked["assistant_masks"])
        ids = list(self._apply(row, messages)["input_ids"])
        learned = [0] * len(ids)
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            if index == 0:
                advice = "Put a user's message before it."
                raise reject("bad_messages", row.line, "the assistant speaks first", message["content"], advice)
            prompt = list(self._apply(row, messages[:index], add_generation_prompt=True)["input_ids"])
            turn = ids if index == len(messages) - 1 else list(self._apply(row, messages[: index + 1])["input_ids"])
            if turn[: len(prompt)] != prompt or ids[: len(turn)] != turn:
                raise self._unstable(row, index + 1)
            start, end = len(prompt), self._end_of_turn(turn, len(prompt))
            learned[start:end] = [1] * (end - start)
        return ids, learned

    def _end_of_turn(self, turn: list[int], start: int) -> int:
        """Past the last end-of-turn token: a template's line break after it is never the model's to say."""
        end_token = self._tokenizer.eos_token_id
        for end in range(len(turn), start, -1):
            if turn[end - 1] == end_token:
                return end
        return len(turn)

    def _apply(self, row: Row, messages: list[dict[str, str]], **options: Any) -> Any:
        try:
            return self._tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)
        except (TemplateError, TypeError, ValueError) as error:
            advice = "The model's chat template does not allow such a row. Correct the line or remove it."
            shown = json.dumps(messages, ensure_ascii=False)
            raise reject("template_refused", row.line, f"the chat template says: {error}", shown, advice) from error

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _with_first(self, ids: list[int]) -> list[int]:
        return ids if ids[:1] == self._first else self._first + ids

    def _with_end(self, ids: list[int]) -> list[int]:
        end = self._tokenizer.eos_token_id
        return ids if end is None or ids[-1:] == [end] else [*ids, end]

    def _says_nothing(self, row: Row) -> bool:
        match row:
            case Conversation():
                return not any(turn["content"].strip() for turn in row.messages if turn["role"] == "assistant")
            case Pair():
                return not row.completion.strip()
            case Text():
                return not row.text.strip()

    def _nothing_learned(self, row: Row, truncated: bool) -> RowRejected:
        if truncated and not self._says_nothing(row):
            what = f"nothing to learn is left of this row within max_length = {self._max_length} tokens"
            advice = "Raise [data] max_length in keepstep.toml, or shorten the prompt."
        else:
            what, advice = (
                "nothing to learn in this row, its answer is empty",
                "Correct the line or remove it.",
            )
        return reject("no_trainable_tokens", row.line, what, _shown(row), advice)

    def _unstable(self, row: Row, turn: int) -> RowRejected:
        return reject(
            "template_not_prefix_stable",
            row.line,
            f"the chat template writes the text before message {turn} differently once that message is there, "
            "so it cannot be told which tokens are the assistant's",
            _shown(row),
            "Use a chat template with {% generation %} marks, or one that only appends; or rows of a single answer.",
        )


def _shown(row: Row) -> str:
    match row:
        case Conversation():
            return json.dumps(row.messages, ensure_ascii=False)
        case Pair():
            return row.prompt
        case Text():
            return row.text


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
