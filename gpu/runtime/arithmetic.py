"""Choose the arithmetic of a job's steps: float32, or bfloat16 for products.

`precision = "bf16"` asks for bfloat16. A processor without bfloat16 instructions emulates it, often thirty times slower
than float32. There the job computes in float32, and the worker says so.

The choice decides the bits, so it must not change within a job. It follows from the processor's features; if these are
unclear, a short measurement decides. The journal records the choice with each training start
(`training_started.environment`), and the next order to train the same job contains it. See docs/decisions/0014.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch

from events.values import ARITHMETIC, FP32_INSTEAD
from gpu.runtime.cpu_features import bf16_support
from gpu.runtime.determinism import hardware

Precision = Literal["fp32", "bf16"]
Arithmetic = Literal["fp32", "bf16", "fp32 instead of bf16"]

INSTEAD: Arithmetic = "fp32 instead of bf16"
assert INSTEAD == FP32_INSTEAD  # one value, typed here

OF_BF16 = frozenset(get_args(Arithmetic)) - {"fp32"}
"""The possible outcomes of `precision = "bf16"`."""

MEASURED_S = 0.025
"""Seconds for each of two types: dozens of products where the CPU is fast, one where it is slow."""

ROWS, WIDTH = 128, 512
"""Shape of the measured products: large enough that their start does not count."""

WORTHWHILE = 1.1
"""bfloat16 is used up to this multiple of float32's time: the user asked for it, and 10 % are noise."""


def choose_arithmetic(
    precision: Precision, device: torch.device, recorded: Mapping[str, str], is_fast: Callable[[], bool] | None = None
) -> Arithmetic:
    """Return the arithmetic for `device`.

    `recorded`: the environment that this job was trained in before; empty for a new job. On the same hardware with the
    same torch its choice stays. `is_fast`: the measurement for a processor with unclear features.
    """
    if precision == "fp32":
        return "fp32"
    known = recorded.get(ARITHMETIC)
    if known in OF_BF16 and all(recorded.get(name) == value for name, value in hardware(device).items()):
        return INSTEAD if known == INSTEAD else "bf16"
    return "bf16" if _computes_bf16(device, is_fast or bf16_is_fast) else INSTEAD


def autocasts(arithmetic: Arithmetic) -> bool:
    """Return True if products are computed in bfloat16."""
    return arithmetic == "bf16"


def _computes_bf16(device: torch.device, is_fast: Callable[[], bool]) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    support = bf16_support()
    if support == "unclear":
        return is_fast()
    return support == "native" and _torch_uses_it()


def _torch_uses_it() -> bool:
    """Return True if torch passes bfloat16 products to oneDNN, the library that uses the instructions."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def bf16_is_fast(seconds_per_product: Callable[[torch.dtype], float] | None = None) -> bool:
    """Measure for about 50 ms. Return True if a product in bfloat16 takes no longer than one in float32."""
    measure = seconds_per_product or _seconds_per_product
    return measure(torch.bfloat16) <= WORTHWHILE * measure(torch.float32)


def _seconds_per_product(dtype: torch.dtype) -> float:
    """Return the time of the fastest of several products: disturbances only make a product slower."""
    left, right = torch.ones(ROWS, WIDTH, dtype=dtype), torch.ones(WIDTH, WIDTH, dtype=dtype)
    began, fastest = time.perf_counter(), float("inf")
    left @ right  # the first call prepares the library
    while True:
        start = time.perf_counter()
        left @ right
        now = time.perf_counter()
        fastest = min(fastest, now - start)
        if now - began > MEASURED_S:
            return fastest
