"""Everything that can be wrong with a data file as it is read: the names, what they mean, how bad they are.

The names are for scripts and for `[checks]`; where OpenAI's published checker of chat data has a name, it is that one.
`docs/reference/data-formats.md` has this table for people, and a test holds the two together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from events.settings import Severity
from gpu.data.format.example import EXCERPT_CHARACTERS, Problem

Level = Literal["file", "broken", "refuse", "warn", "check"]
"""
file     the file cannot be read on, or at all: it is refused as a whole
broken   no row can be made of it: it is a bad row, whatever the settings say
refuse   a row can be made of it, which would teach something that is hardly meant: a bad row unless asked otherwise
warn     a row can be made of it, and is; it is told
check    it is of the file as a whole, and weighs what `[checks]` says
"""


class Kind(NamedTuple):
    """A kind of problem."""

    level: Level
    means: str


PROBLEMS = {
    # -- the file
    "empty_file": Kind("file", "There is no row in it."),
    "unknown_container": Kind("file", "It is something else: a zip, an Arrow file, a web page, lists, wrapped rows, …"),
    "wrong_encoding": Kind("file", "It is UTF-16 or UTF-32; keepstep reads UTF-8."),
    "truncated_file": Kind("file", "It ends in the middle: of compressed data, or of a JSON array."),
    "broken_compression": Kind("file", "Its compressed data is damaged."),
    "parquet_needs_pyarrow": Kind("file", "It is a Parquet file, and pyarrow is not installed."),
    "broken_parquet": Kind("file", "It is a Parquet file that cannot be read."),
    "swollen_file": Kind("file", "It unpacks to more than 500 times its size: a bomb, or rows all alike."),
    "broken_array": Kind("file", "Between the elements of its JSON array, or behind it, stands what does not belong."),
    "broken_csv": Kind("file", "A row of its table has another number of fields than the header, or a broken quote."),
    "row_too_long": Kind("file", "A line, or an element of the array, is longer than 64 MiB."),
    # -- the text of a row
    "nul_bytes": Kind("broken", "There are NUL bytes in it: it is binary, or what a crash left."),
    "not_utf8": Kind("broken", "It is not UTF-8; the position of the byte is told."),
    "broken_json": Kind("broken", "It is not JSON; line and column are told."),
    "truncated_last_line": Kind("broken", "The last line ends in the middle of its JSON: the file is incomplete."),
    "duplicate_key": Kind("broken", "An object has the same key twice: which one is meant?"),
    "not_finite": Kind("broken", "`NaN`, `Infinity` or a number beyond all floats, which JSON does not have."),
    "half_character": Kind(
        "broken", r"Half of a surrogate pair, such as `\ud83d` alone: it cannot be written as UTF-8."
    ),
    "too_deep": Kind("broken", "Lists and objects within each other, more than 100 deep."),
    "data_type": Kind("broken", "The row, or a message in it, is not a JSON object."),
    # -- the format
    "unknown_format": Kind("broken", "Its fields are those of no known format."),
    "mixed_formats": Kind("broken", "It has another format than the rows before it."),
    "preference_data": Kind("broken", "Answers to choose between, for DPO or KTO: not to be learned as they stand."),
    "row_weight": Kind("refuse", "A key of the row says that it counts more, less or not at all."),
    "row_not_for_training": Kind("refuse", "A key of the row says that it is of a test or validation split."),
    "prompt_trained": Kind("refuse", "A key of the row says that the prompt is to be trained too; it never is."),
    "row_key_refused": Kind("refuse", "A key changes what other trainers train, and keepstep does not do that."),
    "row_key_ignored": Kind("warn", "A key that some trainer reads is left out; what it means is told."),
    "missing_field": Kind("broken", "A field that the format needs is not there."),
    "bad_field": Kind("broken", "A field holds something of the wrong kind, or an answer with nothing in it."),
    "empty_prompt": Kind("warn", "The prompt of a prompt and completion is empty: the completion is trained as text."),
    "bad_tokens": Kind("broken", "`input_ids` are not a list of token ids."),
    "bad_labels": Kind("broken", "`labels` are not, for each token, its id or -100."),
    "bad_attention_mask": Kind("broken", "`attention_mask` is not ones with padding before or behind them."),
    # -- messages
    "missing_messages_list": Kind("broken", "There is no list of messages, or it is empty."),
    "message_missing_key": Kind("broken", "A message has no role or no content."),
    "message_unrecognized_key": Kind("warn", "A message has a key that means nothing here; it is left out."),
    "unrecognized_role": Kind("broken", "A message has a role that nobody plays."),
    "missing_content": Kind("broken", "A message says nothing, or its content is not text."),
    "unsupported_content": Kind("broken", "A part of the content is an image, a sound or a file."),
    "example_missing_assistant_message": Kind("broken", "There is no message of an assistant to learn."),
    "bad_train_flag": Kind("broken", "`weight` is not 0 or 1, `train` not true or false, or they contradict."),
    "train_flag_ignored": Kind("warn", "A message that is not an assistant's is flagged to be learned; it never is."),
    "no_trainable_tokens": Kind("broken", "Nothing of it would be learned."),
    # -- who speaks when
    "system_not_first": Kind("warn", "A system message stands behind another message."),
    "assistant_first": Kind("refuse", "The assistant speaks before anybody said anything."),
    "same_role_twice": Kind("warn", "Two messages of a user, or of an assistant, follow each other."),
    "tool_without_call": Kind("refuse", "A tool answers that was not called."),
    # -- tools
    "bad_tools": Kind("broken", "The declared tools are not functions with names."),
    "bad_tool_call": Kind("broken", "A tool call has no name, or its arguments are no JSON object."),
    "undeclared_tool": Kind("refuse", "A tool is called that is not among the declared ones."),
    "duplicate_tool_call_id": Kind("refuse", "Two calls of one message have the same id."),
    "unknown_tool_call_id": Kind("refuse", "A tool answers a call that is not there, or was answered."),
    "unanswered_tool_call": Kind("warn", "The conversation goes on although a call has no answer."),
    # -- once the tokenizer is known
    "no_chat_template": Kind("broken", "The tokenizer has no chat template, and the row is a conversation."),
    "template_refused": Kind("broken", "The chat template does not allow such a conversation."),
    "template_not_prefix_stable": Kind("broken", "The template does not show where an answer begins and ends."),
    "template_marks_unmatched": Kind("broken", "The template's marks of answers are not those of the row's answers."),
    "template_drops_text": Kind("broken", "The chat template leaves out text, reasoning or tools that the row has."),
    "template_writes_python": Kind("broken", "The chat template writes an object as Python does, and not as JSON."),
    "template_without_tool_calls": Kind("broken", "The chat template leaves out tool calls, or arguments of them."),
    "tokens_straddle_turns": Kind("broken", "A slow tokenizer makes one token of a prompt's end and its answer."),
    "token_out_of_range": Kind("broken", "A token id is not in the vocabulary, or beyond the model's embedding."),
    "tokenizer_beyond_embedding": Kind("warn", "The tokenizer has more tokens than the model's embedding has rows."),
    "max_length_beyond_positions": Kind(
        "warn", "`max_length` is more than the model has positions: rows are held to those."
    ),
    "beyond_trained_positions": Kind("warn", "It is longer than any text that the model was trained with."),
    "answer_cut_off": Kind("warn", "Nothing of its answer lies within `max_length` tokens: it is left out."),
    "too_long": Kind("broken", 'It has more than `max_length` tokens, and `long = "refuse"`.'),
    "special_token_in_content": Kind("warn", "A message has special tokens of the model written out in it."),
    "opening_not_trained": Kind(
        "warn", "The template ends prompts with what it does not write before answers, such as `<think>`."
    ),
    "end_of_turn_not_learned": Kind("warn", "With this template the model is not taught to end its turn."),
    "validation_damaged": Kind("warn", "Rows of the validation set are bad, or it cannot be read to its end."),
    "nothing_evaluated": Kind("warn", "There is a validation set, and no row of it can be evaluated."),
    # -- the file as a whole
    "too_many_bad_rows": Kind("file", "More of its rows are bad than `bad_rows_max` allows."),
    "nothing_left": Kind("file", "All its rows are bad, too long or held out."),
    "many_too_long": Kind("check", "Many of its rows have more than `max_length` tokens: `too_long`."),
    "duplicate_rows": Kind("check", "Rows say the same as an earlier one: `duplicates`."),
    "near_duplicate_rows": Kind("check", "Rows say nearly the same as an earlier one: `near_duplicates`."),
    "low_diversity": Kind("check", "Too few of its rows are different: `diversity`."),
    "contradicting_rows": Kind("check", "The same prompt has another answer in another row: `contradictions`."),
    "learned_before": Kind("check", "Rows were in files that were accepted before: `learned_before`."),
    "in_validation": Kind("check", "Rows are in the validation set, and left out: `validation`."),
}

SEEN_CHARACTERS = 8 * EXCERPT_CHARACTERS + 1
"""Of a row, kept with a problem: as many as an excerpt is made of, and one that tells that there are more."""


def weight_of(name: str, weighed: Mapping[str, Severity]) -> Severity:
    """What becomes of a row for this problem: by `[checks] rows`, or else by its level."""
    return weighed.get(name) or ("warn" if PROBLEMS[name].level == "warn" else "refuse")


def tolerated(weighed: Mapping[str, Severity]) -> frozenset[str]:
    """The problems that do not make a row bad."""
    return frozenset(name for name in PROBLEMS if weight_of(name, weighed) != "refuse")


WARNED = tolerated({})
"""What does not make a row bad by itself."""


class Findings:
    """What is wrong with one row, gathered while it is read."""

    __slots__ = ("line", "problems")

    def __init__(self, line: int) -> None:
        self.line = line
        self.problems: list[Problem] = []

    def add(self, name: str, what: str, seen: Any = "", advice: str = "") -> None:
        """A problem of the row; `seen` as it is in the file, or a value."""
        self.problems.append(Problem(name, self.line, what, shown(seen)[:SEEN_CHARACTERS], advice))

    @property
    def broken(self) -> bool:
        """Whether no row can be made of it."""
        return any(PROBLEMS[problem.name].level == "broken" for problem in self.problems)


def shown(value: Any) -> str:
    """`value` as it stands in the file; a Parquet file has values that JSON has not."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def kind_of(value: Any) -> str:
    """In words: "a list", "null"."""
    if isinstance(value, list) and not value:
        return "an empty list"
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a truth value",
        int: "a number",
        float: "a number",
        bytes: "binary data",
        type(None): "null",
    }
    return names.get(type(value), f"a {type(value).__name__}")
