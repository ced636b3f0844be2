"""What the kernel lists of a CPU, and what follows for bfloat16."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpu.runtime.cpu_features import bf16_support, cpu_flags, cpu_model

INTEL = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8481C
flags\t\t: fpu sse2 avx2 avx512f avx512_bf16 amx_bf16
processor\t: 1
model name\t: another
flags\t\t: fpu
"""

ARM = """processor\t: 0
Features\t: fp asimd bf16
CPU part\t: 0xd40
"""


@pytest.mark.parametrize(
    ("flags", "machine", "environment", "support"),
    [
        ({"avx2", "avx512f", "avx512_bf16"}, "x86_64", {}, "native"),
        ({"avx2", "amx_bf16"}, "x86_64", {}, "native"),
        ({"avx2"}, "x86_64", {}, "none"),
        ({"avx2", "avx512f", "avx512_vnni"}, "x86_64", {}, "none"),
        ({"avx2", "avx512_bf16"}, "x86_64", {"ONEDNN_MAX_CPU_ISA": "avx512_core"}, "none"),
        ({"avx2", "avx_ne_convert"}, "x86_64", {}, "unclear"),
        ({"asimd", "bf16"}, "aarch64", {}, "unclear"),
        ({"asimd"}, "aarch64", {}, "none"),
        (set(), "arm64", {}, "unclear"),
        ({"vsx"}, "ppc64le", {}, "unclear"),
    ],
)
def test_features_show_whether_bfloat16_is_native(
    flags: set[str], machine: str, environment: dict[str, str], support: str
) -> None:
    assert bf16_support(flags, machine, environment) == support


def test_the_first_processor_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(INTEL, encoding="utf-8")
    assert "amx_bf16" in cpu_flags(path)
    assert cpu_model(path) == "Intel(R) Xeon(R) Platinum 8481C"
    path.write_text(ARM, encoding="utf-8")
    assert cpu_flags(path) == {"fp", "asimd", "bf16"}
    assert cpu_model(path) == "0xd40"


def test_a_kernel_that_lists_nothing_gives_no_features(tmp_path: Path) -> None:
    assert cpu_flags(tmp_path / "none") == frozenset()
    assert cpu_model(tmp_path / "none")
