"""Whether a merged model answers as what it was made of: asked both, on fixed prompts, and their logits compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gpu.errors import MergeRefused
from gpu.runtime.library_paths import library_path

TOLERANCE: Mapping[str, float] = {"F32": 1e-3, "BF16": 0.1, "F16": 0.02}
"""How far the logits may be from those of base and checkpoint: root mean square of the difference, as a share of that
of theirs. Several times what rounding alone does to them."""

PROMPTS, PROMPT_TOKENS = 4, 32
"""Asked of both. Random tokens, from a fixed seed: the same for every model and every language."""


class Reference(NamedTuple):
    """What a merged model must answer as: a model, with an adapter on it or by itself."""

    model: Path
    adapter: Path | None = None


def difference(model: Path, reference: Reference) -> float:
    """How far the logits of `model` are from those of the reference: root mean square, as a share of that of theirs.

    One of the two is in memory at a time. Raises MergeRefused if `model` cannot be loaded, or not all of it.
    """
    import torch

    theirs, dtype, unread = _logits(Reference(model), "auto")
    ours, _, known = _logits(reference, dtype)
    for name in sorted(unread - known):  # what the base has too, transformers has always passed over
        raise MergeRefused(f"{model} does not load as it should: {name} is among its unexpected keys")
    return float(torch.linalg.norm(theirs - ours) / torch.linalg.norm(ours))


def refuse_unless_alike(distance: float, stored_as: str) -> None:
    """Raises MergeRefused if logits are further apart than storing weights as `stored_as` explains."""
    if not distance <= TOLERANCE[stored_as]:  # not a number is not within it either
        raise MergeRefused(
            "the merged model does not answer as base and checkpoint do: its logits are off by "
            f"{distance:.1%}, and rounding to {stored_as} explains {TOLERANCE[stored_as]:.1%} at most"
        )


def _logits(asked: Reference, dtype: Any) -> tuple[Any, Any, set[str]]:
    """The logits for the fixed prompts, in float64; the kind of the weights; tensors that the model does not have."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from gpu.model.held_weights import compute_in_float32
    from gpu.runtime.arithmetic import INSTEAD, choose_arithmetic

    model, found = AutoModelForCausalLM.from_pretrained(
        library_path(asked.model), dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    for what in ("missing", "mismatched"):
        for name in sorted(map(str, found[f"{what}_keys"])):
            raise MergeRefused(f"{asked.model} does not load as it should: {name} is among its {what} keys")
    loaded = model.dtype
    if choose_arithmetic("bf16", model.device, {}) == INSTEAD:
        compute_in_float32(model.requires_grad_(False))
    if asked.adapter is not None:
        model = PeftModel.from_pretrained(model, library_path(asked.adapter))
    model.eval()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.get_text_config().vocab_size, (PROMPTS, PROMPT_TOKENS), generator=generator)
    with torch.inference_mode():
        return model(input_ids=ids).logits.double(), loaded, set(map(str, found["unexpected_keys"]))
