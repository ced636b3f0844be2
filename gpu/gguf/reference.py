"""The answers of a model to fixed prompts, computed by transformers: what its GGUF file is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from events.settings import DataSettings
from gpu.data.encode.encoder import Encoder
from gpu.data.template.chat_template import NotTrainable
from gpu.errors import MergeRefused
from gpu.model.tokenizer import explain_load_errors, load_saved_tokenizer
from gpu.runtime.library_paths import library_path

ANSWER_TOKENS = 16
"""Tokens of each answer. Each is one more question to llama.cpp."""

Dialogue = tuple[tuple[str, str], ...]

DIALOGUES: tuple[Dialogue, ...] = (
    (("user", "What is the capital of France?"),),
    (("user", "Write one sentence about the sea."),),
    # Splits of a pre-tokenizer: contractions, digits, runs of spaces, a tab, other scripts, an emoji.
    (("user", "I'm 12345 years old,  isn't it?\tGrüße, 你好! 🙂\n\nIs π 3.14?"),),
    (("system", "You answer in one word."), ("user", "Is water wet?")),
    (("user", "Count to three."), ("assistant", "One, two, three."), ("user", "And to five?")),
)
"""(role, text) of each message. They cover what a chat template distinguishes."""


class ReferenceAnswer(NamedTuple):
    """The greedy answer to one dialogue."""

    dialogue: Dialogue
    prompt: list[int]
    tokens: list[int]
    """The answer, with the token that ends it if it has ended."""
    log_probabilities: list[float]
    """The natural logarithm of the probability of each of `tokens`."""


class ReferenceAnswers(NamedTuple):
    """The answers of a model."""

    answers: tuple[ReferenceAnswer, ...]
    ends: dict[int, str]
    """The tokens that end an answer, and their texts."""
    has_chat_template: bool


def reference_answers(model: Path, data: DataSettings) -> ReferenceAnswers:
    """Return the answers of the model in a directory; it is not in memory afterwards.

    Raises ModelUnusable, MergeRefused if its chat template refuses every dialogue, and the errors of the libraries.
    """
    with explain_load_errors(f"the tokenizer of {model}"):
        tokenizer = load_saved_tokenizer(model)
    encoder = Encoder(tokenizer, data)
    prompts = [(dialogue, ids) for dialogue in DIALOGUES if (ids := encode(encoder, dialogue)) is not None]
    if not prompts:
        raise MergeRefused("the chat template of the model refuses every dialogue, also a single question")
    loaded = _load(model)
    ends = {*_as_list(loaded.generation_config.eos_token_id), *_as_list(tokenizer.eos_token_id)}
    ends |= {*_as_list(encoder.end_of_turn)}
    answers = tuple(
        ReferenceAnswer(dialogue, ids, *_answer(loaded, ids, ends, ANSWER_TOKENS)) for dialogue, ids in prompts
    )
    names = {token: str(tokenizer.convert_ids_to_tokens(token)) for token in sorted(ends)}
    return ReferenceAnswers(answers, names, encoder.has_chat_template)


def encode(encoder: Encoder, dialogue: Dialogue) -> list[int] | None:
    """Return the tokens of a dialogue as in training; None if the chat template refuses it."""
    try:
        return encoder.encode_prompt([{"role": role, "content": text} for role, text in dialogue])
    except NotTrainable:
        return None


def _load(model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    from gpu.model.held_weights import compute_in_float32

    loaded = AutoModelForCausalLM.from_pretrained(library_path(model), dtype="auto", use_safetensors=True)
    compute_in_float32(loaded.requires_grad_(False))  # llama.cpp adds up in float32 too
    return loaded.eval()


def _answer(model: Any, prompt: Sequence[int], ends: set[int], tokens_max: int) -> tuple[list[int], list[float]]:
    """Return the greedy answer, at most `tokens_max` tokens, and the logarithm of each token's probability."""
    import torch

    ids, cache = torch.tensor([prompt]), None
    tokens: list[int] = []
    logarithms: list[float] = []
    with torch.inference_mode():
        while len(tokens) < tokens_max and not (tokens and tokens[-1] in ends):
            said = model(input_ids=ids, past_key_values=cache, use_cache=True)
            last = said.logits[0, -1].float().log_softmax(-1)
            tokens.append(int(last.argmax()))
            logarithms.append(float(last.max()))
            ids, cache = torch.tensor([tokens[-1:]]), said.past_key_values
    return tokens, logarithms


def _as_list(value: int | list[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else value
