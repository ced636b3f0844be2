"""Features and model of the CPU, as the kernel lists them. No torch, so that `doctor` can use it too."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Literal

CPUINFO = Path("/proc/cpuinfo")

Bf16Support = Literal["native", "none", "unclear"]

NATIVE_X86 = frozenset({"avx512_bf16", "amx_bf16"})
"""The instructions that multiply bfloat16 numbers. AVX-512 without them emulates: oneDNN warns that this is slower than
float32 (https://uxlfoundation.github.io/oneDNN/dev_guide_data_types.html)."""

UNCLEAR_X86 = frozenset({"avx_ne_convert"})
"""Converts bfloat16 quickly, but multiplies in float32. Whether torch uses it depends on its build."""

UNCLEAR_ARM = frozenset({"bf16", "svebf16"})
"""Multiplies bfloat16. Whether torch uses it depends on its build."""

X86 = frozenset({"x86_64", "amd64", "i686"})
ARM = frozenset({"aarch64", "arm64"})

LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Either limits oneDNN, which multiplies bfloat16 for torch, to older instructions:
https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html."""

WITHOUT_BF16 = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"})
"""Values under which it uses none of the instructions above."""


def bf16_support(
    flags: Set[str] | None = None, machine: str | None = None, environment: Mapping[str, str] = os.environ
) -> Bf16Support:
    """Return whether the CPU multiplies bfloat16 numbers itself; "unclear": only a measurement shows it.

    `flags` and `machine`: those of this CPU by default.

    >>> bf16_support({"avx2", "avx512f"}, "x86_64", {})
    'none'
    >>> bf16_support({"avx512f", "avx512_bf16"}, "x86_64", {})
    'native'
    """
    flags = cpu_flags() if flags is None else flags
    machine = (platform.machine() if machine is None else machine).lower()
    if not flags:
        return "unclear"
    if machine in X86:
        limited = any(environment.get(name, "").upper() in WITHOUT_BF16 for name in LIMITS)
        if flags & NATIVE_X86 and not limited:
            return "native"
        return "unclear" if flags & UNCLEAR_X86 else "none"
    if machine in ARM:
        return "unclear" if flags & UNCLEAR_ARM else "none"
    return "unclear"


def cpu_flags(path: Path = CPUINFO) -> frozenset[str]:
    """Return the CPU's features by their kernel names; empty where the kernel lists none (macOS)."""
    return frozenset((_field(path, "flags") or _field(path, "Features")).split())


def cpu_model(path: Path = CPUINFO) -> str:
    """Return the CPU's name: "AMD EPYC 9R14". Libraries choose their routines by it, so it decides the bits."""
    return _field(path, "model name") or _field(path, "CPU part") or platform.processor() or platform.machine()


def _field(path: Path, name: str) -> str:
    """Return a field of the first processor in `path`; "" where there is none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        key, found, value = line.partition(":")
        if found and key.strip() == name:
            return value.strip()
    return ""
