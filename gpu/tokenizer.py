"""The tokenizer of a model. Of torch it needs nothing: processes that only encode load none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from events.settings import ModelSettings
from gpu.base import model_location
from gpu.errors import ModelUnusable, is_disk_full, is_out_of_memory
from gpu.library_paths import library_path


def keep_torch_out(settings: ModelSettings) -> None:
    """Of this process, which is to need nothing but a tokenizer: transformers would load it, which takes a second or
    two, and some hundred megabytes."""
    if not settings.trust_remote_code:  # which may need it
        sys.modules["torch"] = None  # type: ignore[assignment]  # as the import system defines it: not to be found


def load_tokenizer(settings: ModelSettings, home: Path) -> Any:
    """The tokenizer of the model. Raises ModelUnusable."""
    from transformers import AutoTokenizer  # a second or two

    location = model_location(settings.path, home)
    loadable = library_path(Path(location)) if Path(location).is_dir() else location
    with explained(f"the tokenizer of {settings.path}"):
        tokenizer = AutoTokenizer.from_pretrained(loadable, trust_remote_code=settings.trust_remote_code)
    if not tokenizer.is_fast and not hasattr(tokenizer, "get_vocab"):
        raise ModelUnusable(f"the tokenizer of {settings.path} has no vocabulary that could be fingerprinted.")
    return tokenizer


_LIBRARY_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    ImportError,
    RuntimeError,
    AttributeError,
    TypeError,
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


def kept_sha256(checkpoint: Path) -> str | None:
    """The fingerprint of the tokenizer that lies in a checkpoint, as the library of today writes it down; None if it
    has none. Another version of it may do that in other words than the one that the manifest's fingerprint is from."""
    from transformers import AutoTokenizer

    from gpu.data.encode import tokenizer_sha256

    try:
        return tokenizer_sha256(AutoTokenizer.from_pretrained(library_path(checkpoint)))
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it is no proof
        return None
