"""The size of a model, read from its config and the headers of its weights. No torch."""

from __future__ import annotations

import math
from pathlib import Path

from msgspec import Struct

from gpu.model.limits import read_limits, read_shapes, read_text_config

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of a number by the name of its type in `config.json`."""

_WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


class ModelSize(Struct, frozen=True, kw_only=True):
    """What decides the memory that training needs. 0: unknown."""

    parameters: int
    width: int
    """Numbers for each token between two layers."""
    layers: int
    vocabulary: int
    positions: int
    """The longest text that the model was made for, in tokens."""


def read_size(directory: Path, *, weights_bytes: int = 0) -> ModelSize:
    """Return the size of the model in `directory`. Raises OSError, ValueError if its config cannot be read.

    `weights_bytes`: size of the weights, if they are not in the directory yet.
    """
    config, limits = read_text_config(directory), read_limits(directory)
    parameters = sum(math.prod(shape) for shape in read_shapes(directory).values())

    def number(*names: str) -> int:
        return next((config[name] for name in names if isinstance(config.get(name), int)), 0)

    if not parameters and weights_bytes:
        parameters = weights_bytes // _BYTES.get(str(config.get("dtype") or config.get("torch_dtype")), 2)
    return ModelSize(
        parameters=parameters,
        width=number(*_WIDTHS),
        layers=number(*_LAYERS),
        vocabulary=limits.embedding_rows or 0,
        positions=limits.positions or limits.trained_positions or 0,
    )
