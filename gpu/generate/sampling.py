"""Choose the sampling of an answer: what the user asks for, then the model's generation_config.json, then defaults.

Without `do_sample` in generation_config.json, and without a request, the choice is greedy, as in transformers. No
torch.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

from events.generation import Sampling, SamplingInUse

TOKENS_MAX = 512
"""Longest answer in tokens if neither the user nor the model says: about a page."""

SMALLEST_TEMPERATURE = 1e-5
"""With a smaller one, only the most probable token could be drawn, and the scores divided by it may be infinite."""

SEEDS = 2**32
"""New seeds are below this, so that they are short to type."""


def choose_sampling(asked: Sampling, config: Any) -> SamplingInUse:
    """Return the values to use. `config`: the model's GenerationConfig."""
    wants_sampling = any(value is not None for value in (asked.temperature, asked.top_p, asked.top_k))
    temperature = _first(asked.temperature, config.temperature, 1.0)
    samples = not asked.greedy and temperature >= SMALLEST_TEMPERATURE and (wants_sampling or bool(config.do_sample))
    return SamplingInUse(
        greedy=not samples,
        temperature=temperature if samples else None,
        top_p=_first(asked.top_p, config.top_p, 1.0) if samples else None,
        top_k=_first(asked.top_k, config.top_k, 0) if samples else None,
        repetition_penalty=_first(config.repetition_penalty, 1.0),
        max_tokens=_first(asked.max_tokens, config.max_new_tokens, TOKENS_MAX),
        seed=secrets.randbelow(SEEDS) if asked.seed is None else asked.seed,
    )


def generation_config(config: Any, used: SamplingInUse, tokens_max: int, ends: list[int], padding: int) -> Any:
    """Return a copy of the model's GenerationConfig with these values.

    `ends`: tokens that end an answer. `padding`: any token; it is not used, because one answer is generated at a time.
    """
    from copy import deepcopy

    made = deepcopy(config)
    made.update(
        do_sample=not used.greedy,
        temperature=used.temperature,
        top_p=used.top_p,
        top_k=used.top_k,
        max_new_tokens=tokens_max,
        max_length=None,
        min_length=0,
        min_new_tokens=None,
        num_beams=1,
        num_return_sequences=1,
        eos_token_id=ends or None,
        pad_token_id=padding,
        use_cache=True,
    )
    return made


def end_tokens(model: Any, tokenizer: Any, end_of_turn: int | None) -> list[int]:
    """Return the tokens that end an answer: those of the model, of the tokenizer, and of a turn in training."""
    return sorted({*_ids(model.generation_config.eos_token_id), *_ids(tokenizer.eos_token_id), *_ids(end_of_turn)})


def _ids(token: Any) -> Iterator[int]:
    """Yield the token ids of a setting: none, one, or a list of them."""
    if isinstance(token, int):
        yield token
    elif token is not None:
        yield from token


def _first(*values: Any) -> Any:
    """Return the first of these that is not None."""
    return next(value for value in values if value is not None)
