"""What is asked of `gpu.export`, and what it answers. No torch: the shell speaks it too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

Dtype = Literal["float32", "bfloat16", "float16"]

DTYPES: Mapping[Dtype, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""What weights can be rounded to, and what a safetensors file calls it."""


class Order(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is wanted."""

    home: str
    checkpoint: str
    """Its directory."""
    target: str
    dtype: Dtype | None
    """None: each weight as the base has it."""


class Exported(Struct, frozen=True, kw_only=True, tag="exported"):
    """A model that stands under its name."""

    target: str
    size_bytes: int
    dtypes: tuple[str, ...]
    applied: float | None
    """The applied fraction: how much of what was learned the stored weights moved; None if nothing was learned."""
    difference: float
    """Of its logits, as a share of theirs."""
    tolerance: float


class Refusal(Struct, frozen=True, kw_only=True, tag="refused"):
    """Why there is none."""

    problem: str
