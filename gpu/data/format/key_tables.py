"""The keys of rows and messages that decide what is trained: what each means to which trainer, and what happens here.

`gpu.data.format.keys` applies these tables.

The rule: a key that any known trainer gives a meaning which changes what is trained is read, refused by name, or warned
of. Nothing in these tables is passed over without a word. Keys that are in no table (an id, a source, a score) change
nothing in any of these trainers; a row may have them.

`docs/reference/data-formats.md` shows both tables; a test holds page and tables together. Sources: the data pages of TRL,
ms-swift, LLaMA-Factory, Axolotl, OpenAI, OpenPipe, torchtune, NeMo and MLX-LM.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

REASONING = ("reasoning_content", "reasoning", "thinking", "thought")
"""The names under which a message has its reasoning."""

Handling = Literal["read", "refused", "warned"]


class Key(NamedTuple):
    """One key, or several that mean the same."""

    names: tuple[str, ...]
    trainers: str
    """Who gives it a meaning."""
    meaning: str
    handling: Handling
    problem: str = ""
    """The name of the problem that a value with an effect makes."""
    advice: str = ""
    has_effect: Callable[[Any], bool] = lambda value: _has_content(value)
    """Whether a value changes what is trained. By default, empty values (null, false, 0, "", []) do not."""


# -- values ----------------------------------------------------------------------------------------------------------

_YES = frozenset({"1", "true", "t", "yes", "y", "on", "good", "desirable", "chosen"})
_NO = frozenset({"0", "-1", "false", "f", "no", "n", "off", "bad", "undesirable", "rejected"})
_NOTHING = frozenset({"", "null", "none", "nan", "[]", "{}"})
"""Truth values and empty ones as CSV files, data frames and other languages write them."""


def _said(value: Any) -> str:
    """A scalar in lower case: `true`, `True`, `1` and `1.0` of a CSV file are the same."""
    return str(value).strip().lower().removesuffix(".0")


def is_empty(value: Any) -> bool:
    """True if a value says nothing, also as a CSV file or a data frame writes that: null, NaN, "", "[]", [null]."""
    if isinstance(value, (list, tuple, dict)):
        return all(map(is_empty, value if not isinstance(value, dict) else value.values()))
    return _said(value) in _NOTHING


def _has_content(value: Any) -> bool:
    return not is_empty(value) and _said(value) not in _NO


def is_verdict(value: Any) -> bool:
    """True if a `label` says that an answer is good or bad: a truth value, also as the number or the text into which a
    CSV file, a data frame or a Parquet column turns one. False for a class name such as "math"."""
    if isinstance(value, (list, tuple)):
        return any(map(is_verdict, value))
    return not isinstance(value, dict) and _said(value) in _YES | _NO


def _is_there(value: Any) -> bool:
    """An empty list of rejected answers still tells what kind of data it is."""
    return value is not None and value != ""


def _is_not_one(value: Any) -> bool:
    """A weight of 1 is what every row has here."""
    if isinstance(value, (list, tuple)):
        return any(map(_is_not_one, value))
    return not is_empty(value) and _said(value) not in ("1", "true")


def _is_off(value: Any) -> bool:
    """Other values than a "no" are no flag: a row may carry the loss that another model had on it."""
    if isinstance(value, (list, tuple)):
        return any(map(_is_off, value))
    return not isinstance(value, dict) and _said(value) in _NO


def _is_other_split(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_is_other_split, value))
    return isinstance(value, str) and not is_empty(value) and not _said(value).startswith("train")


def _masks_others(value: Any) -> bool:
    """NeMo's `mask` names the roles that are not trained; here that is everybody but the assistant."""
    names = value if isinstance(value, (list, tuple)) else [value]
    return any(_has_content(name) and _said(name) not in ("user", "human", "system", "tool") for name in names)


def _is_packed(value: Any) -> bool:
    """True if positions begin anew in a row, or there are several lengths or kinds of tokens: several examples."""
    if not isinstance(value, (list, tuple)):
        return not is_empty(value)
    return list(value) != [*range(len(value))] and len({*map(str, value)}) > 1


# -- advice ----------------------------------------------------------------------------------------------------------

_CHOSEN_ONLY = (
    "keepstep trains on every answer as a good one. Write a file with the good answers alone (prompt and completion, "
    "or messages), without this key; train preferences with DPO or KTO elsewhere."
)
_TEXT_ONLY = "keepstep trains on text alone. Remove the line, or remove the key if the text needs no picture or sound."
_REASONING = (
    "Put the reasoning into the assistant's message as `reasoning_content`, or into its content as <think>…</think>."
)

ROW_KEYS = (
    # -- good and bad answers
    Key(
        ("label",),
        "TRL, ms-swift (KTO)",
        "whether the answer is good: true/false, also 1/0 and their texts",
        "refused",
        "preference_data",
        _CHOSEN_ONLY,
        is_verdict,
    ),
    Key(
        ("kto_tag",),
        "LLaMA-Factory (KTO)",
        "whether the answer is good",
        "refused",
        "preference_data",
        _CHOSEN_ONLY,
        _is_there,
    ),
    Key(
        ("desirable", "is_desirable", "is_chosen", "is_good", "thumbs_up", "feedback"),
        "KTO files",
        "whether the answer is good",
        "refused",
        "preference_data",
        _CHOSEN_ONLY,
        is_verdict,
    ),
    Key(
        ("chosen", "rejected", "chosen_response", "chosen_messages", "chosen_conversations", "rejected_conversations"),
        "TRL, LLaMA-Factory, Axolotl, torchtune (DPO, reward)",
        "the better and the worse answer",
        "refused",
        "preference_data",
        _CHOSEN_ONLY,
        _is_there,
    ),
    Key(
        ("rejected_response", "rejected_responses", "rejected_messages", "rejected_images"),
        "ms-swift (DPO)",
        "the worse answer",
        "refused",
        "preference_data",
        _CHOSEN_ONLY,
        _is_there,
    ),
    Key(
        ("rejected_message",),
        "OpenPipe (DPO)",
        "the worse answer",
        "refused",
        "preference_data",
        _CHOSEN_ONLY,
        _is_there,
    ),
    Key(
        ("preferred_output", "non_preferred_output"),
        "OpenAI (DPO)",
        "the better and the worse answer",
        "refused",
        "preference_data",
        _CHOSEN_ONLY,
        _is_there,
    ),
    Key(
        ("completions", "labels"),
        "TRL (process supervision)",
        "steps of an answer and whether each is right; `labels` of token ids are read",
        "warned",
        "row_key_ignored",
    ),
    # -- what counts how much
    Key(
        ("weight", "weights", "sample_weight", "loss_weight", "loss_weights", "loss_scale", "importance_weight"),
        "ms-swift, weighted losses",
        "how much the row counts",
        "refused",
        "row_weight",
        "Every row counts the same. Remove rows of weight 0; repeat rows that are to count more; remove the key.",
        _is_not_one,
    ),
    Key(
        ("loss", "train", "training", "trainable", "loss_mask"),
        "as the flags of messages, for a whole row",
        "whether the row is trained",
        "refused",
        "row_weight",
        "Remove the line if it is not to be trained; or remove the key. Flags of single messages are read.",
        _is_off,
    ),
    Key(
        ("train_on_input", "train_on_inputs", "train_on_prompt"),
        "torchtune, Axolotl, LLaMA-Factory",
        "whether the prompt is trained too",
        "refused",
        "prompt_trained",
        "keepstep trains on the assistant's answers only. Set it to false; or make rows of `text`, which are trained "
        "whole.",
    ),
    Key(
        ("mask",),
        "NeMo",
        "the roles that are not trained; user and system never are",
        "refused",
        "row_weight",
        "Set `weight` to 0 on the assistant messages that are not to be trained, and remove the key.",
        _masks_others,
    ),
    Key(
        ("split",),
        "OpenPipe",
        "TEST: the row is not trained",
        "refused",
        "row_not_for_training",
        "Move these rows to a file of their own and name it in [data] validation; or remove the key.",
        _is_other_split,
    ),
    # -- what comes before the answer
    Key(("system",), "LLaMA-Factory, ms-swift, Axolotl", "the system prompt", "read"),
    Key(("system_prompt", "system_message"), "OpenOrca, Axolotl", "the system prompt", "read"),
    Key(("history",), "LLaMA-Factory, ms-swift", "earlier questions and answers", "read"),
    Key(("tools", "functions"), "OpenAI, TRL, ms-swift, LLaMA-Factory", "declared tools", "read"),
    Key(("chat_template_kwargs",), "TRL", "arguments of the chat template", "read"),
    Key(
        ("enable_thinking", "thinking_mode", "reasoning_effort"),
        "ms-swift, OpenAI",
        "whether and how long the model thinks",
        "refused",
        "row_key_refused",
        'Say it as `"chat_template_kwargs": {"enable_thinking": …}`, which the chat template reads.',
        _is_there,
    ),
    Key(
        ("suffix",),
        "OpenAI (legacy), Mistral, fill in the middle",
        "the text after the completion",
        "refused",
        "row_key_refused",
        "keepstep trains completions that follow their prompt. Make the whole text a row of `text`.",
    ),
    Key(
        ("documents",),
        "chat templates for retrieval",
        "the documents that the answer is from",
        "warned",
        "row_key_ignored",
        "Put what the model is to see into a message.",
    ),
    Key(
        ("tool_choice", "response_format", "json_schema"),
        "OpenAI, OpenPipe",
        "a tool or form that the answer must have",
        "warned",
        "row_key_ignored",
        "Put what the model is to see into a message.",
        lambda value: not is_empty(value) and value != "auto",
    ),
    Key(
        ("reasoning", "reasoning_content", "thinking", "thought", "thoughts", "rationale", "chain_of_thought", "cot"),
        "reasoning data sets",
        "the reasoning before the answer",
        "warned",
        "row_key_ignored",
        _REASONING,
    ),
    # -- pictures and sound
    Key(
        (
            *("image", "images", "image_url", "image_urls", "image_path", "image_paths", "pixel_values", "objects"),
            *("video", "videos", "video_url", "video_path", "audio", "audios", "audio_url", "audio_path"),
        ),
        "TRL, ms-swift, LLaMA-Factory, OpenAI",
        "pictures, films, sound and places in them",
        "refused",
        "unsupported_content",
        _TEXT_ONLY,
    ),
    # -- token ids
    Key(("input_ids", "attention_mask"), "TRL, Axolotl", "token ids", "read"),
    Key(
        ("completion_mask", "assistant_masks", "assistant_mask", "token_loss_mask"),
        "TRL",
        "1 for each token that is trained",
        "read",
    ),
    Key(
        ("position_ids", "seq_lengths", "cu_seqlens", "token_type_ids"),
        "TRL, Axolotl (packed rows)",
        "where the examples of a packed row begin",
        "refused",
        "row_key_refused",
        "Give each example a row of its own; [data] packing puts short ones together.",
        _is_packed,
    ),
    Key(
        ("type",),
        "NeMo (SteerLM): VALUE_TO_TEXT",
        "values of a message that the model is asked for, or answers",
        "warned",
        "row_key_ignored",
        "Put the values into the messages.",
        lambda value: value in ("VALUE_TO_TEXT", "TEXT_TO_VALUE"),
    ),
    Key(
        ("positive_messages", "negative_messages", "positive", "negative"),
        "ms-swift, sentence-transformers (embedding, reranker)",
        "texts that belong together, or do not",
        "refused",
        "preference_data",
        _CHOSEN_ONLY,
        _is_there,
    ),
)
"""Keys of a row."""

MESSAGE_KEYS = (
    Key(("name", "tool_calls", "tool_call_id", "function_call"), "OpenAI", "tools and who speaks", "read"),
    Key(("weight",), "OpenAI", "0: the message is not trained", "read"),
    Key(("train", "training"), "Axolotl", "false: the message is not trained", "read"),
    Key(("loss",), "ms-swift", "false: the message is not trained", "read"),
    Key(
        ("loss_scale", "loss_weight"),
        "ms-swift",
        "0: the message is not trained; other weights than 0 and 1 are refused",
        "read",
    ),
    Key(("loss_mask",), "Megatron, OpenRLHF", "0: the message is not trained", "read"),
    Key(("trainable", "train_on", "train_on_turn", "learn"), "several", "false: the message is not trained", "read"),
    Key(("masked", "is_masked", "mask", "ignore"), "torchtune", "true: the message is not trained", "read"),
    Key(
        ("train_detail", "training_detail"),
        "Axolotl",
        "parts of the message that are not trained",
        "refused",
        "bad_train_flag",
        "keepstep trains a message whole or not at all. Split the message, or remove the key.",
    ),
    Key(
        ("reasoning_content", "reasoning", "thinking", "thought"),
        "transformers, TRL, ms-swift, OpenAI-compatible servers",
        "the reasoning before the answer",
        "read",
    ),
    Key(("label",), "KTO files", "whether the answer is good", "refused", "preference_data", _CHOSEN_ONLY, is_verdict),
    Key(
        ("canonical_form", "quality"),
        "NeMo",
        "values that the model is asked for",
        "warned",
        "message_unrecognized_key",
        "It is left out. Put it into the content, if the model is to see it.",
    ),
    Key(
        ("chosen", "rejected", "rejected_content"),
        "preference files",
        "the better and the worse answer",
        "refused",
        "preference_data",
        _CHOSEN_ONLY,
        _is_there,
    ),
    Key(
        ("refusal",),
        "OpenAI",
        "the text with which the assistant refuses",
        "refused",
        "missing_content",
        "Put the text into the content, if the model is to say it; or remove the line.",
    ),
    Key(
        ("image", "images", "video", "videos", "audio", "audios", "files", "image_url"),
        "OpenAI, ms-swift",
        "pictures, films and sound",
        "refused",
        "unsupported_content",
        _TEXT_ONLY,
    ),
)
"""Keys of a message, besides its role and its content. A key that is not here is `message_unrecognized_key`."""
