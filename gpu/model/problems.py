"""Find a reason why a model cannot be trained, from its files and before it is loaded. No torch.

`keepstep init`, `config check`, `doctor` and the worker all ask `find_problem`, so they refuse the same models with the
same words.
"""

from __future__ import annotations

import ast
import shlex
import sys
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gpu.artifacts.tensors import read_header
from gpu.errors import ModelUnusable
from gpu.model.base import INDEX, WEIGHTS, weights_files
from gpu.model.files import CONFIG, tokenizer_names
from gpu.model.hub import commit_of
from journal.durable import open_to_read, read_file

ADAPTER_CONFIG = "adapter_config.json"
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""The beginning of the text that stands for a file which git-lfs has not downloaded: https://git-lfs.com."""
LFS_POINTER_BYTES_MAX = 1024

GGUF = b"GGUF"
"""The beginning of a GGUF file."""

VOCABULARIES = ("tokenizer.json", "vocab", "tokenizer.model", "spiece.model", "tekken.json")
"""Beginnings of the names of files from which transformers makes a tokenizer, besides those in VOCABULARY_ENDINGS."""
VOCABULARY_ENDINGS = (".model", ".spm", ".tiktoken")

MERGE = (
    'python -c "from peft import PeftModel; from transformers import AutoModelForCausalLM, AutoTokenizer; '
    "base = AutoModelForCausalLM.from_pretrained('{model}', dtype='auto'); "
    "PeftModel.from_pretrained(base, '{adapter}').merge_and_unload().save_pretrained('{merged}'); "
    "AutoTokenizer.from_pretrained('{model}').save_pretrained('{merged}')\""
)
"""Makes one model of a base and an adapter."""

MOVE_ADAPTER = "mkdir {adapter} && mv {model}/adapter_* {adapter}/"


class Problem(NamedTuple):
    """A reason why a model cannot be used."""

    what: str
    """The predicate of a sentence about the path."""
    advice: str
    """An instruction, without a period."""


def find_problem(path: Path, *, weights: bool = True) -> Problem | None:
    """Return why the model at `path` cannot be trained and merged; None if its files show no reason.

    Reads the small files and the headers of the weights. `weights`: False for a model of the hub whose weights are not
    downloaded yet. Raises OSError.
    """
    if not path.is_dir():
        return _problem_of_file(path)
    problem = _find_missing_config(path) or _problem_of_config(path) or _problem_of_tokenizer(path)
    if problem is None and weights:
        problem = _find_missing_weights(path) or _problem_of_weights(path)
    return problem


def refuse_problem(directory: Path, *, weights: bool = True) -> None:
    """Raise ModelUnusable for what `find_problem` finds. Raises OSError."""
    if (problem := find_problem(directory, weights=weights)) is not None:
        raise ModelUnusable(f"the model at {directory} ([model] path) {problem.what}. {problem.advice}.")


def own_code(directory: Path) -> bool:
    """True if the model comes with code (`auto_map`), which keepstep does not run. Raises OSError."""
    config = _json(directory / CONFIG)
    return bool(isinstance(config, dict) and config.get("auto_map"))


# -- not a directory ------------------------------------------------------------------------------------------------


def _problem_of_file(path: Path) -> Problem | None:
    if not path.exists():
        return Problem("does not exist", "Name a directory that exists, or a hub id")
    if _begins_with(path, GGUF) or path.suffix == ".gguf":
        return _gguf(path, "is a GGUF file, and keepstep trains safetensors")
    if (path.parent / CONFIG).exists():
        return Problem("is a file of a model, not its directory", f"Name the directory: {path.parent}")
    empty = "an empty file" if path.is_file() and path.stat().st_size == 0 else "a file"
    return Problem(
        f"is {empty}, not the directory of a model",
        f"Name a directory with {CONFIG}, {WEIGHTS} and a tokenizer, or a hub id",
    )


def _gguf(path: Path, what: str) -> Problem:
    target = shlex.quote(str(path.with_suffix("")))
    return Problem(
        what,
        "Name the model that it was made from, by its directory or hub id. If you have only this file, convert it "
        f"(weights of less than 16 bits stay rounded): `{shlex.quote(sys.executable)} -P -m gpu.model.gguf "
        f"{shlex.quote(str(path))} {target}`, and name {target}",
    )


# -- config ---------------------------------------------------------------------------------------------------------


def _find_missing_config(directory: Path) -> Problem | None:
    if (directory / CONFIG).exists():
        return None
    if (directory / ADAPTER_CONFIG).exists():
        return _lone_adapter(directory)
    names = sorted(path.name for path in directory.iterdir())
    if not names:
        return Problem("is empty", f"Download a model: {_download(directory)}")
    for name in names:
        if name.endswith(".gguf"):
            return _gguf(directory / name, f"has no {CONFIG}, only {name}, and keepstep trains safetensors")
    for pattern in ("", "*/", "snapshots/*/"):
        for path in sorted(directory.glob(f"{pattern}{CONFIG}")):
            return Problem(f"has no {CONFIG}, but {path.parent} has one", f"Name that directory: {path.parent}")
    return Problem(
        f"is not a model: it has no {CONFIG}",
        f"Name a directory with {CONFIG}, {WEIGHTS} and a tokenizer, or download the model again",
    )


def _lone_adapter(directory: Path) -> Problem:
    config = _json(directory / ADAPTER_CONFIG)
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    names = {"model": base or "BASE", "adapter": directory, "merged": f"{directory}-merged"}
    return Problem(
        f"is an adapter{f' of {base}' if base else ''}, not a model, and keepstep starts with a new adapter",
        f"To train a new adapter, name the base: {base or 'its card says which one that is'}. To train on from this "
        f"one, make one model of both and name {names['merged']}: `{MERGE.format(**names)}`",
    )


def _problem_of_config(directory: Path) -> Problem | None:
    if _is_lfs_pointer(directory / CONFIG):
        return _lfs(directory, CONFIG)
    config = _json(directory / CONFIG)
    if not isinstance(config, dict):
        problem = "is not a JSON object" if config is not None else "is not valid JSON"
        return Problem(f"cannot be read: its {CONFIG} {problem}", f"Download the model again: {_download(directory)}")
    if config.get("quantization_config"):
        return Problem(
            "is quantized on disk, so its training could never become a version",
            'Name its 16-bit or 32-bit original; [method] kind = "qlora" loads that in 4 bits',
        )
    if (directory / ADAPTER_CONFIG).exists():
        return Problem(
            f"contains an adapter ({ADAPTER_CONFIG}): transformers would load the base with that adapter, and keepstep "
            "trains the base alone",
            _separate_adapter(directory),
        )
    if (name := config.get("transformers_weights")) not in {None, WEIGHTS, INDEX}:
        return Problem(
            f"has a config that names {name} as its weights (transformers_weights), and keepstep reads {WEIGHTS} or "
            f"{INDEX}",
            f"Rename the file to {WEIGHTS} and remove transformers_weights from {CONFIG}",
        )
    return _problem_of_architecture(config)


def _separate_adapter(directory: Path) -> str:
    if commit_of(directory):  # a snapshot in the cache of the hub, whose files are not the user's to move
        return (
            f"Download it to a separate directory (`hf download {_hub_id(directory)} --local-dir DIRECTORY`) and set "
            "[model] path to that; keepstep then says how to separate base and adapter"
        )
    names = {
        "model": directory,
        "adapter": directory.with_name(f"{directory.name}-adapter"),
        "merged": directory.with_name(f"{directory.name}-merged"),
    }
    return (
        f"To train the base alone, move the adapter out: `{MOVE_ADAPTER.format(**names)}`. To train on from the "
        f"adapter, move it out, make one model of both, and set [model] path to {names['merged']}: "
        f"`{MERGE.format(**names)}`"
    )


def _problem_of_architecture(config: Mapping[str, Any]) -> Problem | None:
    kind, known = config.get("model_type"), _causal_models()
    if not isinstance(kind, str) or not known or kind in known:
        return None
    if config.get("auto_map"):
        return Problem(
            f"needs its own code (auto_map in {CONFIG}), which keepstep does not run: transformers has none for {kind}",
            "Choose a model whose architecture transformers has, or a newer transformers that has this one",
        )
    return Problem(
        f"is of the type {kind}, for which the installed transformers has no causal language model",
        "Choose a model that continues text, or install a newer transformers if the model is newer",
    )


@cache
def _causal_models() -> frozenset[str]:
    """The types of models that `AutoModelForCausalLM` loads; empty if they cannot be found out.

    Read from the source of transformers: an import would take seconds.
    """
    spec = find_spec("transformers")
    source = Path(spec.origin).parent / "models" / "auto" / "modeling_auto.py" if spec and spec.origin else None
    if source is None or not source.exists():
        return frozenset()
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if not isinstance(target, ast.Name) or target.id != "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES":
            continue
        value = getattr(node, "value", None)
        if isinstance(value, ast.Call) and value.args and isinstance(value.args[0], ast.List):
            return frozenset(dict(ast.literal_eval(value.args[0])))
    return frozenset()


# -- tokenizer and weights ------------------------------------------------------------------------------------------


def _problem_of_tokenizer(directory: Path) -> Problem | None:
    names = tokenizer_names(directory)
    for name in names:
        if _is_lfs_pointer(directory / name):
            return _lfs(directory, name)
    if any(name.startswith(VOCABULARIES) or name.endswith(VOCABULARY_ENDINGS) for name in names):
        return None
    return Problem("has no tokenizer", "Copy the files of its tokenizer there, such as tokenizer.json")


def _find_missing_weights(directory: Path) -> Problem | None:
    if (directory / WEIGHTS).exists():
        return None
    if (directory / INDEX).exists():
        try:
            missing = [name for name in weights_files(directory) if not (directory / name).exists()]
        except ModelUnusable:
            what = f"cannot be read: its {INDEX} is damaged or names files outside of the directory"
            return Problem(what, f"Download the model again: {_download(directory)}")
        if missing:
            return Problem(f"lacks {missing[0]}, which {INDEX} names", "Restore that file, or download the model again")
        return None
    others = sorted(path.name for path in directory.glob("*.safetensors") if path.name not in ADAPTERS)
    if others:
        return Problem(
            f"has no {WEIGHTS} and no {INDEX}, only {', '.join(others[:3])}, and transformers loads no other name",
            f"If {others[0]} holds the whole model, rename it to {WEIGHTS}; else download the model again",
        )
    return Problem(
        "has no weights as safetensors, and keepstep loads nothing else",
        "Download its safetensors files, or convert it: load it with transformers and `save_pretrained` it",
    )


def _problem_of_weights(directory: Path) -> Problem | None:
    for name in weights_files(directory):
        path = (directory / name).resolve()
        if _is_lfs_pointer(path):
            return _lfs(directory, name)
        if path.stat().st_size == 0:
            return Problem(f"has an empty {name}", f"Download the model again: {_download(directory)}")
        try:
            read_header(path)
        except ValueError as error:
            advice = "Restore that file, or download the model again: it may be incomplete"
            return Problem(f"has a damaged {name}: {error}", advice)
    return None


def _lfs(directory: Path, name: str) -> Problem:
    return Problem(
        f"has a git-lfs pointer in place of {name}: git has cloned it without its large files",
        f"Download them: `git -C {_quoted(directory)} lfs pull`, or {_download(directory)}",
    )


# -- reading --------------------------------------------------------------------------------------------------------


def _json(path: Path) -> Any:
    """The content of a JSON file; None if it is no JSON. Raises OSError."""
    try:
        return msgspec.json.decode(read_file(path.resolve()))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _is_lfs_pointer(path: Path) -> bool:
    return path.is_file() and path.stat().st_size <= LFS_POINTER_BYTES_MAX and _begins_with(path, LFS_POINTER)


def _begins_with(path: Path, magic: bytes) -> bool:
    if not path.is_file():
        return False
    with open_to_read(path.resolve()) as file:
        return file.read(len(magic)) == magic


def _download(directory: Path) -> str:
    """The command that downloads a model of the hub into `directory`."""
    if commit := commit_of(directory):
        return f"`hf download {_hub_id(directory)} --revision {commit} --force-download`"
    return f"`hf download NAME --local-dir {_quoted(directory)}`"


def _hub_id(snapshot: Path) -> str:
    """The name of the model of a snapshot in the cache of the hub."""
    return snapshot.parent.parent.name.removeprefix("models--").replace("--", "/")


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
