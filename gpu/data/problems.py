"""Problems of data files: every name, what it means, and how severe it is.

Scripts and `[checks]` use the names. Where OpenAI's published checker of chat data has a name, keepstep uses that name.
`docs/reference/data-formats.md` shows the table; a test holds the two together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from events.settings import Severity

EXCERPT_CHARACTERS = 80
"""Enough to recognise a row, short enough for one line."""

SEEN_CHARACTERS = 8 * EXCERPT_CHARACTERS + 1
"""Characters of a row that a problem keeps: those of an excerpt, and one that shows that there are more."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a row, or with a file as a whole."""

    name: str
    """Its name in PROBLEMS."""
    line: int | None
    """None for the file as a whole."""
    what: str
    """The fault, as a clause: "the field 'prompt' is missing; the row has"."""
    seen: str = ""
    """The text in question; shown as an excerpt."""
    advice: str = ""
    """The way out, as a sentence."""
    column: int | None = None
    """From 1, in characters; None if the problem has no place within the line."""

    @property
    def message(self) -> str:
        """The message for the user; a second line has the advice."""
        where = (
            "" if self.line is None else f"Line {self.line}" + (f", column {self.column}: " if self.column else ": ")
        )
        text = f"{where}{self.what}: {excerpt(self.seen)}" if self.seen else f"{where}{self.what}"
        return f"{text}\n{self.advice}" if self.advice else text


def excerpt(text: str) -> str:
    """Return the beginning of `text` on one line."""
    flat = " ".join(text[: 8 * EXCERPT_CHARACTERS].split())
    whole = len(flat) <= EXCERPT_CHARACTERS and len(text) <= 8 * EXCERPT_CHARACTERS
    return flat if whole else flat[: EXCERPT_CHARACTERS - 1] + "…"


Level = Literal["file", "broken", "refuse", "warn", "check"]
"""
file     the file is refused as a whole, because it cannot be read to its end
broken   keepstep cannot train the row: it is bad, whatever the settings say
refuse   keepstep could train the row, but hardly anybody means what it would teach: bad, unless [checks] rows differs
warn     keepstep trains the row and reports it, unless [checks] rows differs
check    a property of the whole file; a key of [checks] sets its severity
"""


class ProblemKind(NamedTuple):
    """A kind of problem."""

    level: Level
    meaning: str


PROBLEMS = {
    # -- the file
    "empty_file": ProblemKind("file", "The file has no rows."),
    "unknown_container": ProblemKind(
        "file", "keepstep does not read this kind of file: zip, Arrow, a web page, lists, wrapped rows, …"
    ),
    "wrong_encoding": ProblemKind("file", "The file is not UTF-8, for example UTF-16 or UTF-32."),
    "truncated_file": ProblemKind("file", "The compressed data or the JSON array ends in the middle."),
    "broken_compression": ProblemKind("file", "The compressed data is damaged."),
    "parquet_needs_pyarrow": ProblemKind("file", "The file is Parquet, and pyarrow is not installed."),
    "broken_parquet": ProblemKind("file", "The file is Parquet and cannot be read."),
    "swollen_file": ProblemKind(
        "file", "The file unpacks to more than 500 times its size: a decompression bomb, or identical rows."
    ),
    "broken_array": ProblemKind("file", "The JSON array has an error between its elements or after its end."),
    "broken_csv": ProblemKind(
        "file", "A row of the table has another number of fields than the header, or broken quotes."
    ),
    "row_too_long": ProblemKind("file", "A row is longer than 64 MiB."),
    # -- the text of a row
    "nul_bytes": ProblemKind("broken", "The row contains NUL bytes: it is binary, or a crash left them."),
    "not_utf8": ProblemKind("broken", "The row is not UTF-8; the message names the byte."),
    "broken_json": ProblemKind("broken", "The row is not JSON; the message names line and column."),
    "truncated_last_line": ProblemKind(
        "broken", "The last line ends in the middle of its JSON: the file is incomplete."
    ),
    "duplicate_key": ProblemKind("broken", "An object has the same key twice, so its value is ambiguous."),
    "not_finite": ProblemKind("broken", "`NaN`, `Infinity` or a number too large for a float; JSON has none of these."),
    "half_character": ProblemKind(
        "broken", r"Half of a surrogate pair, such as `\ud83d` alone; UTF-8 cannot represent it."
    ),
    "too_deep": ProblemKind("broken", "Lists and objects are nested more than 100 levels deep."),
    "data_type": ProblemKind("broken", "The row, or one of its messages, is not a JSON object."),
    # -- the format
    "unknown_format": ProblemKind("broken", "The fields of the row match no known format."),
    "mixed_formats": ProblemKind("broken", "The row has another format than the rows before it."),
    "preference_data": ProblemKind(
        "broken", "The row compares or judges answers, for DPO or KTO; keepstep would train the bad ones too."
    ),
    "row_weight": ProblemKind("refuse", "A key gives the row a weight, and keepstep trains every row with the same."),
    "row_not_for_training": ProblemKind("refuse", "A key puts the row into a test or validation split."),
    "prompt_trained": ProblemKind("refuse", "A key asks to train the prompt too, which keepstep never does."),
    "row_key_refused": ProblemKind(
        "refuse", "A key changes what other trainers train, and keepstep does not support it."
    ),
    "row_key_ignored": ProblemKind("warn", "keepstep ignores a key that some trainers read."),
    "missing_field": ProblemKind("broken", "A field that the format needs is missing."),
    "bad_field": ProblemKind("broken", "A field has the wrong type, or an answer is empty."),
    "empty_prompt": ProblemKind(
        "warn", "The prompt of a prompt and completion is empty: keepstep trains the completion as text."
    ),
    "bad_tokens": ProblemKind("broken", "`input_ids` is not a list of token ids."),
    "bad_labels": ProblemKind("broken", "`labels` must have, for each token, its id or -100."),
    "bad_attention_mask": ProblemKind(
        "broken", "`attention_mask` must be ones, with padding only before or after them."
    ),
    # -- messages
    "missing_messages_list": ProblemKind("broken", "The list of messages is missing or empty."),
    "message_missing_key": ProblemKind("broken", "A message has no role or no content."),
    "message_unrecognized_key": ProblemKind("warn", "keepstep ignores an unknown key of a message."),
    "unrecognized_role": ProblemKind("broken", "A message has an unknown role."),
    "missing_content": ProblemKind("broken", "A message is empty, or its content is not text."),
    "unsupported_content": ProblemKind("broken", "A part of the content is an image, a sound or a file."),
    "example_missing_assistant_message": ProblemKind("broken", "The row has no assistant message to train."),
    "bad_train_flag": ProblemKind(
        "broken", "A train flag (`weight`, `train`, …) has a bad value, or flags contradict."
    ),
    "train_flag_ignored": ProblemKind(
        "warn", "A train flag is set on a message that is not the assistant's; keepstep trains only the assistant."
    ),
    "no_trainable_tokens": ProblemKind("broken", "Nothing in the row would be trained."),
    # -- the order of the messages
    "system_not_first": ProblemKind("warn", "A system message comes after another message."),
    "assistant_first": ProblemKind("refuse", "The conversation begins with the assistant."),
    "same_role_twice": ProblemKind("warn", "Two messages of the user, or of the assistant, follow each other."),
    "tool_without_call": ProblemKind("refuse", "A tool answers although no tool was called."),
    # -- tools
    "bad_tools": ProblemKind("broken", "The declared tools are not functions with names."),
    "bad_tool_call": ProblemKind("broken", "A tool call has no name, or its arguments are not a JSON object."),
    "undeclared_tool": ProblemKind("refuse", "The assistant calls a tool that the row does not declare."),
    "duplicate_tool_call_id": ProblemKind("refuse", "Two calls of one message have the same id."),
    "unknown_tool_call_id": ProblemKind(
        "refuse", "A tool answers a call that does not exist or already has an answer."
    ),
    "unanswered_tool_call": ProblemKind("warn", "The conversation continues although a tool call has no answer."),
    # -- once the tokenizer is known
    "no_chat_template": ProblemKind("broken", "The row is a conversation, and the tokenizer has no chat template."),
    "template_refused": ProblemKind("broken", "The chat template refuses the conversation."),
    "template_not_prefix_stable": ProblemKind("broken", "The template does not show where an answer begins and ends."),
    "template_marks_unmatched": ProblemKind(
        "broken", "The template's generation marks do not match the answers of the row."
    ),
    "template_drops_text": ProblemKind("broken", "The chat template omits text, reasoning or tools of the row."),
    "template_writes_python": ProblemKind("broken", "The chat template writes an object as Python instead of JSON."),
    "template_without_tool_calls": ProblemKind("broken", "The chat template omits tool calls or their arguments."),
    "tokens_straddle_turns": ProblemKind(
        "broken", "A slow tokenizer makes one token of the end of an answer and the beginning of the next turn."
    ),
    "token_out_of_range": ProblemKind("broken", "A token id is outside of the vocabulary or the model's embedding."),
    "tokenizer_beyond_embedding": ProblemKind(
        "warn", "The tokenizer has more tokens than the model's embedding has rows."
    ),
    "max_length_beyond_positions": ProblemKind(
        "warn", "`max_length` exceeds the model's positions: keepstep limits rows to the positions."
    ),
    "beyond_trained_positions": ProblemKind("warn", "The row is longer than any text that the model was trained with."),
    "answer_cut_off": ProblemKind("warn", "The whole answer lies beyond `max_length` tokens: keepstep drops the row."),
    "too_long": ProblemKind("broken", 'The row has more than `max_length` tokens, and `long = "refuse"`.'),
    "special_token_in_content": ProblemKind("warn", "A message spells out special tokens of the model."),
    "opening_not_trained": ProblemKind(
        "warn", "The template ends prompts with text that it does not write before answers, such as `<think>`."
    ),
    "end_of_turn_not_learned": ProblemKind("warn", "With this template the model is not trained to end its turn."),
    "validation_damaged": ProblemKind("warn", "The validation set has bad rows, or cannot be read to its end."),
    "nothing_evaluated": ProblemKind("warn", "The job has a validation set, but none of its rows can be evaluated."),
    # -- the file as a whole
    "too_many_bad_rows": ProblemKind("file", "More rows are bad than `bad_rows_max` allows."),
    "nothing_left": ProblemKind("file", "Every row is bad, too long or held out."),
    "many_too_long": ProblemKind("check", "Many rows have more than `max_length` tokens: `too_long`."),
    "duplicate_rows": ProblemKind("check", "Rows are identical to earlier rows: `duplicates`."),
    "near_duplicate_rows": ProblemKind("check", "Rows are nearly identical to earlier rows: `near_duplicates`."),
    "low_diversity": ProblemKind("check", "Too few rows are different: `diversity`."),
    "contradicting_rows": ProblemKind("check", "Rows have the same prompt and different answers: `contradictions`."),
    "trained_before": ProblemKind("check", "Rows were in files that were accepted earlier: `trained_before`."),
    "in_validation": ProblemKind(
        "check", "Rows are in the validation set; keepstep does not train them: `validation`."
    ),
}


def severity_of(name: str, severities: Mapping[str, Severity]) -> Severity:
    """Return what this problem does to a row: by `[checks] rows`, else by its level."""
    return severities.get(name) or ("warn" if PROBLEMS[name].level == "warn" else "refuse")


def tolerated_problems(severities: Mapping[str, Severity]) -> frozenset[str]:
    """Return the names of the problems that do not make a row bad."""
    return frozenset(name for name in PROBLEMS if severity_of(name, severities) != "refuse")


TOLERATED = tolerated_problems({})
"""Names of the problems that do not make a row bad by default."""


class Findings:
    """Collects the problems of one row while it is read."""

    __slots__ = ("line", "problems")

    def __init__(self, line: int) -> None:
        self.line = line
        self.problems: list[Problem] = []

    def add(self, name: str, what: str, seen: Any = "", advice: str = "") -> None:
        """Add a problem of the row; `seen` is the text in question, or its value."""
        self.problems.append(Problem(name, self.line, what, as_text(seen)[:SEEN_CHARACTERS], advice))

    @property
    def broken(self) -> bool:
        """True if a problem makes it impossible to train the row."""
        return any(PROBLEMS[problem.name].level == "broken" for problem in self.problems)


def as_text(value: Any) -> str:
    """Return a string unchanged, and any other value as JSON; Parquet files have values that JSON has not."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def type_name(value: Any) -> str:
    """Return the type of a JSON value in words: "a list", "null"."""
    if isinstance(value, list) and not value:
        return "an empty list"
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        bytes: "binary data",
        type(None): "null",
    }
    return names.get(type(value), f"a {type(value).__name__}")
