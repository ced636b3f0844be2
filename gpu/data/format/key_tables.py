"""Keys of rows and messages that decide what is trained: which trainer reads each, what it means, and what keepstep
does.

`gpu.data.format.keys` applies these tables.

The rule: if any known trainer gives a key a meaning that changes what is trained, keepstep reads it, refuses it by
name, or warns about it. Keys in no table (an id, a source, a score) change nothing in any of these trainers; a row may
have them.

`docs/reference/data-formats.md` shows both tables; a test holds page and tables together. Sources: the data pages of
TRL, ms-swift, LLaMA-Factory, Axolotl, OpenAI, OpenPipe, torchtune, NeMo and MLX-LM.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

REASONING = ("reasoning_content", "reasoning", "thinking", "thought")
"""Names of the key with the reasoning of a message."""

Handling = Literal["read", "refused", "warned"]


class Key(NamedTuple):
    """One key, or several with the same meaning."""

    names: tuple[str, ...]
    trainers: str
    """The trainers that read it."""
    meaning: str
    handling: Handling
    problem: str = ""
    """Name of the problem, for a value with an effect."""
    advice: str = ""
    has_effect: Callable[[Any], bool] = lambda value: _has_content(value)
    """True if a value changes what is trained. By default, empty values (null, false, 0, "", []) do not."""


# -- values ----------------------------------------------------------------------------------------------------------

_YES = frozenset({"1", "true", "t", "yes", "y", "on", "good", "desirable", "chosen"})
_NO = frozenset({"0", "-1", "false", "f", "no", "n", "off", "bad", "undesirable", "rejected"})
_NOTHING = frozenset({"", "null", "none", "nan", "[]", "{}"})
"""Booleans and empty values as CSV files, data frames and other languages write them."""


def _normalized(value: Any) -> str:
    """Return a scalar in lower case: `true`, `True`, `1` and `1.0` of a CSV file are equal."""
    return str(value).strip().lower().removesuffix(".0")


def is_empty(value: Any) -> bool:
    """True if a value is empty, also as a CSV file or a data frame writes it: null, NaN, "", "[]", [null]."""
    if isinstance(value, (list, tuple, dict)):
        return all(map(is_empty, value if not isinstance(value, dict) else value.values()))
    return _normalized(value) in _NOTHING


def _has_content(value: Any) -> bool:
    return not is_empty(value) and _normalized(value) not in _NO


def is_judgement(value: Any) -> bool:
    """True if a `label` judges an answer as good or bad: a boolean, also as the number or the text into which a CSV
    file, a data frame or a Parquet column turns one. False for a class name such as "math"."""
    if isinstance(value, (list, tuple)):
        return any(map(is_judgement, value))
    return not isinstance(value, dict) and _normalized(value) in _YES | _NO


def _is_present(value: Any) -> bool:
    """True for an empty list too: an empty list of rejected answers still shows what kind of data it is."""
    return value is not None and value != ""


def _is_not_one(value: Any) -> bool:
    """True for a weight other than 1, which every row has here."""
    if isinstance(value, (list, tuple)):
        return any(map(_is_not_one, value))
    return not is_empty(value) and _normalized(value) not in ("1", "true")


def _is_off(value: Any) -> bool:
    """True for a "no" only: a row may carry the loss that another model had on it."""
    if isinstance(value, (list, tuple)):
        return any(map(_is_off, value))
    return not isinstance(value, dict) and _normalized(value) in _NO


def _is_not_train_split(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_is_not_train_split, value))
    return isinstance(value, str) and not is_empty(value) and not _normalized(value).startswith("train")


def _masks_assistant(value: Any) -> bool:
    """True if NeMo's `mask`, the roles that are not trained, names the assistant; others are never trained here."""
    names = value if isinstance(value, (list, tuple)) else [value]
    return any(_has_content(name) and _normalized(name) not in ("user", "human", "system", "tool") for name in names)


def _is_packed(value: Any) -> bool:
    """True if a row holds several examples: its positions start again, or it has several lengths or kinds of tokens."""
    if not isinstance(value, (list, tuple)):
        return not is_empty(value)
    return list(value) != [*range(len(value))] and len({*map(str, value)}) > 1


# -- advice ----------------------------------------------------------------------------------------------------------

_ADVICE_PREFERENCE = (
    "keepstep trains every answer as a good one. Write a file with only the good answers (prompt and completion, or "
    "messages), without this key. Train preferences with DPO or KTO elsewhere."
)
_ADVICE_MEDIA = "keepstep trains only text. Remove the row, or remove the key if the text needs no image or sound."
_ADVICE_REASONING = (
    "Put the reasoning into the assistant's message as `reasoning_content`, or into its content as <think>…</think>."
)


def _preference(
    names: tuple[str, ...], trainers: str, meaning: str, has_effect: Callable[[Any], bool] = _is_present
) -> Key:
    return Key(names, trainers, meaning, "refused", "preference_data", _ADVICE_PREFERENCE, has_effect)


ROW_KEYS = (
    # -- good and bad answers
    _preference(
        ("label",),
        "TRL, ms-swift (KTO)",
        "whether the answer is good: true/false, also 1/0 and their texts",
        is_judgement,
    ),
    _preference(("kto_tag",), "LLaMA-Factory (KTO)", "whether the answer is good"),
    _preference(
        ("desirable", "is_desirable", "is_chosen", "is_good", "thumbs_up", "feedback"),
        "KTO files",
        "whether the answer is good",
        is_judgement,
    ),
    _preference(
        ("chosen", "rejected", "chosen_response", "chosen_messages", "chosen_conversations", "rejected_conversations"),
        "TRL, LLaMA-Factory, Axolotl, torchtune (DPO, reward)",
        "the better and the worse answer",
    ),
    _preference(
        ("rejected_response", "rejected_responses", "rejected_messages", "rejected_images"),
        "ms-swift (DPO)",
        "the worse answer",
    ),
    _preference(("rejected_message",), "OpenPipe (DPO)", "the worse answer"),
    _preference(("preferred_output", "non_preferred_output"), "OpenAI (DPO)", "the better and the worse answer"),
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
        "the weight of the row",
        "refused",
        "row_weight",
        (
            "keepstep trains every row with the same weight. Remove rows of weight 0, repeat rows that should weigh "
            "more, and remove the key."
        ),
        _is_not_one,
    ),
    Key(
        ("loss", "train", "training", "trainable", "loss_mask"),
        "as the flags of messages, for a whole row",
        "whether the row is trained",
        "refused",
        "row_weight",
        (
            "Remove the row if it should not be trained; else remove the key. keepstep reads the flags of single "
            "messages."
        ),
        _is_off,
    ),
    Key(
        ("train_on_input", "train_on_inputs", "train_on_prompt"),
        "torchtune, Axolotl, LLaMA-Factory",
        "whether the prompt is trained too",
        "refused",
        "prompt_trained",
        "keepstep trains only the assistant's answers. Set the key to false; or write the rows as `text`, which is "
        "trained whole.",
    ),
    Key(
        ("mask",),
        "NeMo",
        "the roles that are not trained; user and system never are",
        "refused",
        "row_weight",
        "Set `weight` to 0 on the assistant messages that should not be trained, and remove the key.",
        _masks_assistant,
    ),
    Key(
        ("split",),
        "OpenPipe",
        "TEST: the row is not trained",
        "refused",
        "row_not_for_training",
        "Move these rows to another file and name it in [data] validation; or remove the key.",
        _is_not_train_split,
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
        "whether and how long the model reasons",
        "refused",
        "row_key_refused",
        'Write it as `"chat_template_kwargs": {"enable_thinking": …}`, which the chat template reads.',
        _is_present,
    ),
    Key(
        ("suffix",),
        "OpenAI (legacy), Mistral, fill in the middle",
        "the text after the completion",
        "refused",
        "row_key_refused",
        "keepstep trains completions that follow their prompt. Write the whole text as `text`.",
    ),
    Key(
        ("documents",),
        "chat templates for retrieval",
        "the documents that the answer is from",
        "warned",
        "row_key_ignored",
        "Put what the model should see into a message.",
    ),
    Key(
        ("tool_choice", "response_format", "json_schema"),
        "OpenAI, OpenPipe",
        "a tool or form that the answer must have",
        "warned",
        "row_key_ignored",
        "Put what the model should see into a message.",
        lambda value: not is_empty(value) and value != "auto",
    ),
    Key(
        ("reasoning", "reasoning_content", "thinking", "thought", "thoughts", "rationale", "chain_of_thought", "cot"),
        "reasoning data sets",
        "the reasoning before the answer",
        "warned",
        "row_key_ignored",
        _ADVICE_REASONING,
    ),
    # -- pictures and sound
    Key(
        (
            *("image", "images", "image_url", "image_urls", "image_path", "image_paths", "pixel_values", "objects"),
            *("video", "videos", "video_url", "video_path", "audio", "audios", "audio_url", "audio_path"),
        ),
        "TRL, ms-swift, LLaMA-Factory, OpenAI",
        "images, videos, sound and positions in them",
        "refused",
        "unsupported_content",
        _ADVICE_MEDIA,
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
        "Write each example as a separate row; [data] packing joins short ones.",
        _is_packed,
    ),
    Key(
        ("type",),
        "NeMo (SteerLM): VALUE_TO_TEXT",
        "attributes of a message that the model should predict or follow",
        "warned",
        "row_key_ignored",
        "Put the values into the messages.",
        lambda value: value in ("VALUE_TO_TEXT", "TEXT_TO_VALUE"),
    ),
    _preference(
        ("positive_messages", "negative_messages", "positive", "negative"),
        "ms-swift, sentence-transformers (embedding, reranker)",
        "texts that match or do not match",
    ),
)
"""Keys of a row."""

MESSAGE_KEYS = (
    Key(("name", "tool_calls", "tool_call_id", "function_call"), "OpenAI", "tools and names", "read"),
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
    _preference(("label",), "KTO files", "whether the answer is good", is_judgement),
    Key(
        ("canonical_form", "quality"),
        "NeMo",
        "attributes that the model should predict",
        "warned",
        "message_unrecognized_key",
        "Put it into the content, if the model should see it.",
    ),
    _preference(("chosen", "rejected", "rejected_content"), "preference files", "the better and the worse answer"),
    Key(
        ("refusal",),
        "OpenAI",
        "the text with which the assistant refuses",
        "refused",
        "missing_content",
        "Put the text into the content, if the model should say it; or remove the row.",
    ),
    Key(
        ("image", "images", "video", "videos", "audio", "audios", "files", "image_url"),
        "OpenAI, ms-swift",
        "images, videos and sound",
        "refused",
        "unsupported_content",
        _ADVICE_MEDIA,
    ),
)
"""Keys of a message, in addition to its role and content. Any other key is a `message_unrecognized_key`."""
