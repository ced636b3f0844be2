"""The size of a model, read from its config and the headers of its weights. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from gpu.model.limits import read_limits, read_shapes, read_text_config

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of a number by the name of its type in `config.json`."""

_KEYS: Mapping[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "width": ("hidden_size", "n_embd", "d_model", "dim"),
    "mlp": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "key_heads": ("num_key_value_heads", "num_kv_heads"),
    "head_size": ("head_dim",),
    "vocabulary": ("vocab_size",),
}
"""Names of each size in `config.json`, the most common first."""


class ModelSize(Struct, frozen=True, kw_only=True):
    """Sizes that decide the memory for training. 0: unknown."""

    parameters: int
    width: int
    """Numbers for each token between two layers."""
    layers: int
    vocabulary: int
    positions: int
    """The longest text that the model was made for, in tokens."""


def read_number(config: Mapping[str, Any], size: str) -> int:
    """Return a size by its name in `_KEYS`; 0: the config does not say it."""
    found = (config.get(key) for key in _KEYS[size])
    return next((value for value in found if isinstance(value, int) and value > 0), 0)


def read_size(directory: Path, *, weights_bytes: int = 0) -> ModelSize:
    """Return the size of the model in `directory`. Raises OSError, ValueError if its config cannot be read.

    `weights_bytes`: size of the weights, if they are not in the directory yet.
    """
    config, limits = read_text_config(directory), read_limits(directory)
    parameters = sum(math.prod(shape) for shape in read_shapes(directory).values())
    if not parameters and weights_bytes:
        parameters = weights_bytes // _BYTES.get(str(config.get("dtype") or config.get("torch_dtype")), 2)
    return ModelSize(
        parameters=parameters,
        width=read_number(config, "width"),
        layers=read_number(config, "layers"),
        vocabulary=limits.embedding_rows or 0,
        positions=limits.positions or limits.trained_positions or 0,
    )
