"""The tokenizer of a model: load it, render chats, and find its files.

No torch: processes that only encode do not load it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from events.settings import ModelSettings
from gpu.errors import ModelUnusable, is_disk_full, is_out_of_memory
from gpu.model.base import base_directory
from gpu.model.files import CONFIG, read_model_file, tokenizer_files
from gpu.model.limits import ModelLimits, read_limits
from gpu.model.problems import refuse_problem
from gpu.runtime.library_paths import library_path


def block_torch_import(settings: ModelSettings) -> None:
    """Keep transformers from importing torch in this process: a second or two, and some hundred megabytes."""
    if not settings.trust_remote_code:  # remote code may need torch
        sys.modules["torch"] = None  # type: ignore[assignment]  # the import system then raises ImportError


def load_tokenizer(settings: ModelSettings, home: Path) -> Any:
    """Load the tokenizer of the model. Raises ModelUnusable."""
    from transformers import AutoTokenizer  # takes a second or two

    with explain_load_errors(f"the tokenizer of {settings.path}"):
        directory = base_directory(settings.path, home, revision=settings.revision, weights=False)
        loadable = library_path(directory)
        try:
            tokenizer = AutoTokenizer.from_pretrained(loadable, trust_remote_code=settings.trust_remote_code)
        except _LIBRARY_ERRORS:
            refuse_problem(directory, weights=False)  # it often says more than the library does
            raise
    if not tokenizer.is_fast and not hasattr(tokenizer, "get_vocab"):
        raise ModelUnusable(f"the tokenizer of {settings.path} has no vocabulary, so its SHA-256 cannot be computed.")
    return tokenizer


def load_saved_tokenizer(directory: Path, *, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer that a checkpoint or a version holds. Raises the errors of the libraries."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(library_path(directory), trust_remote_code=trust_remote_code)


def render_conversation(
    tokenizer: Any,
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None,
    template: str,
    *,
    marked: bool,
    add_generation_prompt: bool,
    arguments: Mapping[str, Any],
) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Return the text that `apply_chat_template` tokenizes, and its parts that the template marks.

    The parts are (start, end) in characters: what `{% generation %}` encloses, if the template is `marked`. Raises the
    errors of the template.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    (text,), spans = render_jinja_template(
        conversations=[messages],
        tools=tools,
        chat_template=template,
        return_assistant_tokens_mask=marked,
        add_generation_prompt=add_generation_prompt,
        **{**tokenizer.special_tokens_map, **arguments},
    )
    return text, tuple((start, end) for start, end in spans[0]) if marked else ()


def load_limits(settings: ModelSettings, home: Path) -> ModelLimits:
    """Return the limits of the model; the config of a hub's model is downloaded. Raises ModelUnusable."""
    with explain_load_errors(f"the config of {settings.path}"):
        return read_limits(base_directory(settings.path, home, revision=settings.revision, weights=False))


_LIBRARY_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    ImportError,
    RuntimeError,
    AttributeError,
    TypeError,
    AssertionError,  # raised by torch for a padding token outside of the embedding
    SafetensorError,
)
"""Errors of transformers, tokenizers and safetensors for missing, damaged or foreign files."""


@contextmanager
def explain_load_errors(what: str) -> Iterator[None]:
    """Raise ModelUnusable for any error of a library that cannot load `what`."""
    try:
        yield
    except _LIBRARY_ERRORS as error:
        if is_out_of_memory(error) or is_disk_full(error):  # a model of the hub is stored before it is loaded
            raise
        raise ModelUnusable(
            f"{what} cannot be loaded: {error} Check [model] path in keepstep.toml: it must be a directory with "
            "config.json, *.safetensors and a tokenizer, or a hub id that can be reached."
        ) from error


def tokenizer_files_to_save(tokenizer: Any, settings: ModelSettings, home: Path, sha256: str) -> dict[str, bytes]:
    """Return the tokenizer files that a checkpoint stores: those of the model's directory, by name.

    `sha256` is that of the tokenizer. The config is included if the files give this tokenizer only with it. Raises
    ModelUnusable, OSError.
    """
    directory = base_directory(settings.path, home, revision=settings.revision, weights=False)
    more = {*getattr(tokenizer, "vocab_files_names", {}).values()}
    if settings.trust_remote_code:
        more |= {path.name for path in directory.glob("*.py")}
    files = tokenizer_files(directory, more)
    with tempfile.TemporaryDirectory(prefix="keepstep-") as scratch:
        for name, content in files.items():
            (Path(scratch) / name).parent.mkdir(exist_ok=True)
            (Path(scratch) / name).write_bytes(content)
        if saved_tokenizer_sha256(Path(scratch)) == sha256:
            return files
        config = read_model_file(directory, CONFIG)
        (Path(scratch) / CONFIG).write_bytes(config)
        return {**files, CONFIG: config} if saved_tokenizer_sha256(Path(scratch)) == sha256 else files


def comparable_sha256(sha256: str, recorded: str, checkpoint: Path) -> str:
    """Return the SHA-256 of the tokenizer to compare with the `recorded` one of a checkpoint.

    It is `recorded` if the checkpoint holds the tokenizer of `sha256`, recorded by another library version.
    """
    return recorded if recorded != sha256 == saved_tokenizer_sha256(checkpoint) else sha256


def saved_tokenizer_sha256(checkpoint: Path, *, trust_remote_code: bool = False) -> str | None:
    """Return the SHA-256 of the tokenizer in a checkpoint; None if it cannot be loaded.

    It is computed with the installed library; another version may give another SHA-256 for the same tokenizer.
    """
    from gpu.data.template.fingerprint import tokenizer_sha256

    try:
        return tokenizer_sha256(load_saved_tokenizer(checkpoint, trust_remote_code=trust_remote_code))
    except Exception:  # noqa: BLE001 - a tokenizer that cannot be loaded proves nothing
        return None
