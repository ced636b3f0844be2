"""The tokenizer of a model, or why there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from events.settings import ModelSettings
from gpu.data.encode import tokenizer_sha256
from gpu.errors import ModelUnusable
from gpu.tokenizer import explained, load_tokenizer
from tests.fakes.tiny_model import make_tokenizer
from tests.gpu.helpers import Home


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
    with pytest.raises(type(error)), explained("the model"):
        raise error
