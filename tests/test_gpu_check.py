"""`make gpu-check`, as far as a machine without a GPU can show it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_check, gpu_site
from benchmarks.gpu_check import PARTS, Part, Row, exit_code, main, replaced

ROOT = Path(__file__).parent.parent


def only(*parts: str) -> list[str]:
    return [word for part in parts for word in ("--only", part)]


def test_a_part_that_fails_or_hangs_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What each had shown before counts; what was not run is not passed."""
    monkeypatch.setattr(gpu_check, "MODULE", "tests.harness.gpu_parts")
    monkeypatch.setitem(PARTS, "evaluation", Part(5.0, "hangs"))
    monkeypatch.setitem(PARTS, "killed", Part(1.0, "has no time"))
    out = tmp_path / "deep" / "gpu.md"
    asked = only("machine", "exact", "evaluation", "memory", "killed", "qlora", "speed-qwen3")
    assert main(["--device", "cpu", "--tiny", "--out", str(out), *asked]) == 1
    text = out.read_text(encoding="utf-8")
    assert "4 passed, 4 FAILED, 1 not run" in text
    assert text.removeprefix("# keepstep: GPU check\n\n") in capsys.readouterr().out
    for line in (
        "| machine | one | passed | 0.1 | a / b |",
        "| exact | before the crash | passed | 0.1 |  |",
        "| evaluation | before the hang | passed | 0.1 |  |",
        "| memory | real memory | not run | 0.0 | needs CUDA |",
        "| killed | - | FAILED | 0.0 | no time left |",
        "| a model | keepstep | 1,234 | 0.50 | 2.50 |",
    ):
        assert line in text
    failed = [line for line in text.splitlines() if "FAILED |" in line]
    assert ["it crashed" in failed[0], "no end after 5 s" in failed[1], "it said nothing" in failed[3]] == [True] * 3


@pytest.mark.parametrize(
    ("results", "code"),
    [(["passed"], 0), (["passed", "not run"], 0), (["passed", "FAILED"], 1), (["not run"], 1), ([], 1)],
)
def test_the_exit_code_says_whether_all_that_ran_passed(results: list[str], code: int) -> None:
    """Where nothing ran, nothing was shown."""
    assert exit_code([Row("", "", result, 0.0, "") for result in results]) == code


def test_without_a_gpu_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main([]) == 2
    assert "--device cpu" in capsys.readouterr().err


def test_the_first_parts_run_on_a_cpu(tmp_path: Path) -> None:
    """By the script, as on a machine where keepstep is not installed."""
    command = ["bash", "benchmarks/gpu_check.sh", "--device", "cpu", "--tiny", "--out", str(tmp_path / "gpu.md")]
    ran = subprocess.run(
        [*command, *only("machine", "memory")],
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert "3 passed, 0 FAILED, 2 not run" in text
    assert "| memory | CUDA runs out of memory | not run |" in text


@pytest.mark.long
@pytest.mark.timeout(900)
def test_all_parts_run_on_a_cpu(tmp_path: Path) -> None:
    """With tiny models: what needs CUDA says so, and all else passes."""
    out = tmp_path / "gpu.md"
    assert main(["--device", "cpu", "--tiny", "--seconds", "800", "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    assert "0 FAILED, 3 not run" in text
    assert text.count("| keepstep |") == text.count("| bare PyTorch loop |") == 3


def test_the_page_has_a_place_for_the_table() -> None:
    page = gpu_check.PAGE.read_text(encoding="utf-8")
    assert "the table\n<!-- /measured -->" in replaced(page, "the table\n")
    with pytest.raises(ValueError, match="measured"):
        replaced("no place", "")


def test_what_a_python_lacks_is_named(tmp_path: Path) -> None:
    """With the command that fetches it."""
    assert gpu_site.missing(["a-package_that.nobody-has>=2 ; python_version < '4'", "pytest>=1"]) == [
        "a-package-that-nobody-has"
    ]
    bare = subprocess.run(
        [sys.executable, "-I", "-S", str(ROOT / "benchmarks" / "gpu_site.py"), str(tmp_path), str(tmp_path / "site")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert bare.returncode == 1
    assert "msgspec" in bare.stderr
    assert "make gpu-wheels" in bare.stderr
