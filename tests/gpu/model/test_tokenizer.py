"""The tokenizer of a model, or why there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from events.settings import ModelSettings
from gpu.data.template.fingerprint import tokenizer_sha256
from gpu.errors import ModelUnusable
from gpu.model.files import tokenizer_files
from gpu.model.tokenizer import (
    comparable_sha256,
    explain_load_errors,
    load_tokenizer,
    saved_tokenizer_sha256,
    tokenizer_files_to_save,
)
from tests.gpu.helpers import Home
from tests.harness.tiny_model import make_tiny_model, make_tokenizer


def test_the_tokenizer_is_the_models(home: Home) -> None:
    loaded = load_tokenizer(ModelSettings(path="model"), home.path)
    assert tokenizer_sha256(loaded) == tokenizer_sha256(make_tokenizer())


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere", "empty"])
def test_a_model_without_one_is_named_with_what_to_do(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelUnusable, match=r"\[model\] path"):
        load_tokenizer(ModelSettings(path=path), tmp_path)


@pytest.mark.parametrize("error", [MemoryError("much"), OSError(28, "No space left on device")])
def test_what_is_not_the_models_fault_keeps_its_name(error: Exception) -> None:
    with pytest.raises(type(error)), explain_load_errors("the model"):
        raise error


def kept(home: Path) -> dict[str, bytes]:
    settings = ModelSettings(path="model")
    tokenizer = load_tokenizer(settings, home)
    return tokenizer_files_to_save(tokenizer, settings, home, tokenizer_sha256(tokenizer))


def test_what_is_kept_is_the_models_own_byte_for_byte(tmp_path: Path) -> None:
    """Also where transformers would write it in other words, and what it does not read at all."""
    model = make_tiny_model(tmp_path / "model")
    config = {
        **json.loads((model / "tokenizer_config.json").read_bytes()),
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (model / "tokenizer_config.json").write_text(json.dumps(config, indent=7), encoding="utf-8")
    (model / "preprocessor_config.json").write_bytes(b"{ }")
    assert kept(tmp_path) == tokenizer_files(model)
    assert "preprocessor_config.json" in kept(tmp_path)


def test_where_only_the_config_says_which_tokenizer_it_is_the_config_is_kept_too(tmp_path: Path) -> None:
    """Else nothing could load what a LoRA checkpoint holds, nor prove what it is."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "vocab.json").write_text(json.dumps({"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3}), encoding="utf-8")
    (model / "merges.txt").write_text("#version: 0.2\na b\n", encoding="utf-8")
    (model / "config.json").write_text(json.dumps({"model_type": "gpt2"}), encoding="utf-8")
    files = kept(tmp_path)
    assert files == {**tokenizer_files(model), "config.json": (model / "config.json").read_bytes()}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert saved_tokenizer_sha256(tmp_path) == tokenizer_sha256(load_tokenizer(ModelSettings(path="model"), tmp_path))


def test_a_config_that_does_not_decide_the_tokenizer_is_not_kept(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "model")
    settings = ModelSettings(path="model")
    files = tokenizer_files_to_save(load_tokenizer(settings, tmp_path), settings, tmp_path, "0" * 64)
    assert "config.json" not in files


def test_the_same_tokenizer_is_recognized_under_another_library(tmp_path: Path) -> None:
    """A checkpoint that holds it is continued, although its record has another SHA-256."""
    model, recorded = make_tiny_model(tmp_path / "model"), "1" * 64
    now = saved_tokenizer_sha256(model)
    assert now is not None
    assert comparable_sha256(now, recorded, model) == recorded
    assert comparable_sha256("2" * 64, recorded, model) == "2" * 64
