"""The tokenizer of a model, and how many of its tokens the model takes.

Of torch it needs nothing: processes that only encode load none.
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
from gpu.model.limits import ModelLimits, limits_of
from gpu.runtime.library_paths import library_path


def keep_torch_out(settings: ModelSettings) -> None:
    """Of this process, which is to need nothing but a tokenizer: transformers would load it, which takes a second or
    two, and some hundred megabytes."""
    if not settings.trust_remote_code:  # which may need it
        sys.modules["torch"] = None  # type: ignore[assignment]  # as the import system defines it: not to be found


def load_tokenizer(settings: ModelSettings, home: Path) -> Any:
    """The tokenizer of the model. Raises ModelUnusable."""
    from transformers import AutoTokenizer  # a second or two

    with explained(f"the tokenizer of {settings.path}"):
        directory = base_directory(settings.path, home, revision=settings.revision, weights=False)
        loadable = library_path(directory)
        tokenizer = AutoTokenizer.from_pretrained(loadable, trust_remote_code=settings.trust_remote_code)
    if not tokenizer.is_fast and not hasattr(tokenizer, "get_vocab"):
        raise ModelUnusable(f"the tokenizer of {settings.path} has no vocabulary that could be fingerprinted.")
    return tokenizer


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
    """What `apply_chat_template` tokenises: the text, and the parts of it (from, to, in characters) that the template
    marks with `{% generation %}`, if it is `marked`. Raises whatever the template raises.
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
    """What the model takes, by its files; of a hub's model the config is fetched. Raises ModelUnusable."""
    with explained(f"the config of {settings.path}"):
        return limits_of(base_directory(settings.path, home, revision=settings.revision, weights=False))


_LIBRARY_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    ImportError,
    RuntimeError,
    AttributeError,
    TypeError,
    AssertionError,  # torch's, of an embedding whose padding token is beyond it
    SafetensorError,
)
"""What transformers, tokenizers and safetensors raise over files that are missing, broken or of another kind."""


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Whatever a library says about a model that it cannot load, as one named error."""
    try:
        yield
    except _LIBRARY_ERRORS as error:
        if is_out_of_memory(error) or is_disk_full(error):  # a hub's model is stored before it is loaded
            raise
        raise ModelUnusable(
            f"{what} cannot be loaded: {error} Check [model] path in keepstep.toml: it must be a directory with "
            "config.json, *.safetensors and a tokenizer, or a hub id that can be reached."
        ) from error


def files_to_keep(tokenizer: Any, settings: ModelSettings, home: Path, sha256: str) -> dict[str, bytes]:
    """The files of the model's tokenizer, by name, as they stand in its directory: a checkpoint keeps these.

    `sha256` is the tokenizer's fingerprint. Where the files mean that tokenizer only together with the model's config,
    the config is among them. Raises ModelUnusable, OSError.
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
        if kept_sha256(Path(scratch)) == sha256:
            return files
        config = read_model_file(directory, CONFIG)
        (Path(scratch) / CONFIG).write_bytes(config)
        return {**files, CONFIG: config} if kept_sha256(Path(scratch)) == sha256 else files


def kept_sha256(checkpoint: Path, *, trust_remote_code: bool = False) -> str | None:
    """The fingerprint of the tokenizer that lies in a checkpoint, as the library of today writes it down; None if it
    has none. Another version of it may do that in other words than the one that the manifest's fingerprint is from."""
    from transformers import AutoTokenizer

    from gpu.data.template.fingerprint import tokenizer_sha256

    try:
        loadable = library_path(checkpoint)
        return tokenizer_sha256(AutoTokenizer.from_pretrained(loadable, trust_remote_code=trust_remote_code))
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it is no proof
        return None
