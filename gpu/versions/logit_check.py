"""Compare the logits of a merged model with those of base and checkpoint, on fixed prompts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gpu.errors import MergeRefused
from gpu.runtime.library_paths import library_path

TOLERANCE: Mapping[str, float] = {"F32": 1e-3, "BF16": 0.1, "F16": 0.02}
"""Largest relative distance of the logits, ‖merged - reference‖ / ‖reference‖, by the dtype of the stored weights.
Several times the distance that rounding alone causes."""

PROMPTS, PROMPT_TOKENS = 4, 32
"""The prompts are random tokens from a fixed seed, so that they suit every model and language."""


class Reference(NamedTuple):
    """The model that a merged model is compared with: a directory of weights, and an adapter for them if any."""

    model: Path
    adapter: Path | None = None


def logit_distance(model: Path, reference: Reference) -> float:
    """Return the relative distance of the logits of `model` from those of `reference`; see `TOLERANCE`.

    One of the two models is in memory at a time. Raises MergeRefused if `model` cannot be loaded completely.
    """
    import torch

    theirs, dtype, unread = _logits(Reference(model), "auto")
    ours, _, known = _logits(reference, dtype)
    for name in sorted(unread - known):  # transformers ignores those of the base too
        raise MergeRefused(f"{model} does not load as it should: {name} is among its unexpected keys")
    return float(torch.linalg.norm(theirs - ours) / torch.linalg.norm(ours))


def refuse_unless_close(model: Path, reference: Reference, stored_as: str) -> float:
    """Return `logit_distance`. Raises MergeRefused if it is more than storing the weights as `stored_as` explains."""
    distance = logit_distance(model, reference)
    if not distance <= TOLERANCE[stored_as]:  # NaN is refused too
        raise MergeRefused(
            "the merged model does not predict what base and checkpoint predict: its logits are off by "
            f"{distance:.1%}, and rounding to {stored_as} explains {TOLERANCE[stored_as]:.1%} at most"
        )
    return distance


def _logits(of: Reference, dtype: Any) -> tuple[Any, Any, set[str]]:
    """Return the logits for the fixed prompts, the dtype of the weights, and the tensors that the model lacks.

    The logits are float64, (PROMPTS, PROMPT_TOKENS, vocabulary).
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from gpu.model.held_weights import compute_in_float32
    from gpu.runtime.arithmetic import INSTEAD, choose_arithmetic

    model, found = AutoModelForCausalLM.from_pretrained(
        library_path(of.model), dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    for what in ("missing", "mismatched"):
        for name in sorted(map(str, found[f"{what}_keys"])):
            raise MergeRefused(f"{of.model} does not load as it should: {name} is among its {what} keys")
    loaded = model.dtype
    if choose_arithmetic("bf16", model.device, {}) == INSTEAD:
        compute_in_float32(model.requires_grad_(False))
    if of.adapter is not None:
        model = PeftModel.from_pretrained(model, library_path(of.adapter))
    model.eval()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.get_text_config().vocab_size, (PROMPTS, PROMPT_TOKENS), generator=generator)
    with torch.inference_mode():
        return model(input_ids=ids).logits.double(), loaded, set(map(str, found["unexpected_keys"]))
