"""Which files belong to a tokenizer, and that nothing else is read in their place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gpu.errors import ModelUnusable
from gpu.model.files import read_model_file, tokenizer_files, tokenizer_names

OF_TOKENIZERS = [
    "added_tokens.json",
    "additional_chat_templates/tool_use.jinja",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
]
OF_OTHERS = [
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "additional_chat_templates/a.py",
]


def filled(directory: Path) -> Path:
    for name in [*OF_TOKENIZERS, *OF_OTHERS]:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(f"of {name}", encoding="utf-8")
    return directory


def test_all_files_of_a_tokenizer_are_found(tmp_path: Path) -> None:
    """Those in the subdirectory of templates too, and what a class names besides, if it is there."""
    model = filled(tmp_path / "model")
    (model / "vocab.d.json").mkdir()
    (model / "odd.vocabulary").write_bytes(b"odd")
    assert tokenizer_names(model) == OF_TOKENIZERS
    files = tokenizer_files(model, ["odd.vocabulary", "nowhere.model"])
    assert files.keys() == {*OF_TOKENIZERS, "odd.vocabulary"}
    assert files["merges.txt"] == b"of merges.txt"


def test_a_model_in_the_hub_s_cache_is_read_through_its_links(tmp_path: Path) -> None:
    """Each of its files is a link to a copy that snapshots share."""
    blobs, snapshot = filled(tmp_path / "blobs"), tmp_path / "snapshots" / ("a" * 40)
    for name in [*OF_TOKENIZERS, *OF_OTHERS]:
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(os.path.relpath(blobs / name, (snapshot / name).parent))
    assert tokenizer_files(snapshot) == tokenizer_files(blobs)


def out_of_it(model: Path, secret: Path) -> None:
    (model / "merges.txt").symlink_to(secret)


def through_a_directory(model: Path, secret: Path) -> None:
    (model / "additional_chat_templates").symlink_to(secret.parent, target_is_directory=True)


def a_pipe(model: Path, secret: Path) -> None:
    os.mkfifo(model / "merges.txt")


@pytest.mark.parametrize("trick", [out_of_it, through_a_directory, a_pipe])
def test_what_is_no_file_of_the_model_is_refused(tmp_path: Path, trick: Callable[[Path, Path], None]) -> None:
    """A checkpoint and an export would carry it away."""
    secret = tmp_path / "secret" / "of_others.jinja"
    secret.parent.mkdir()
    secret.write_bytes(b"secret")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_bytes(b"{}")
    trick(model, secret)
    with pytest.raises(ModelUnusable, match=r"Put the |Replace the link"):
        tokenizer_files(model)


def test_a_link_inside_of_the_model_s_directory_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_bytes(b"{}")
    (tmp_path / "tokenizer.json").symlink_to("real.json")
    assert read_model_file(tmp_path, "tokenizer.json") == b"{}"
    with pytest.raises(FileNotFoundError):
        read_model_file(tmp_path, "nowhere.json")
