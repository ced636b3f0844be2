"""A home is made for a model that can be trained, by one process at a time, and refused for files that cannot."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.commands.init import create_home, lay_out
from cli.config.schema import load_config
from cli.errors import UserError
from cli.home.paths import Home


def model_files(directory: Path) -> Path:
    """What a model's directory has, for one who looks at names."""
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (directory / "model.safetensors").write_bytes(b"weights")
    return directory


def quantised(model: Path) -> None:
    (model / "config.json").write_text(json.dumps({"quantization_config": {"bits": 4}}), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "says", "advice"),
    [
        (
            lambda model: (model / "model.safetensors").rename(model / "w.safetensors"),
            "only w.safetensors",
            "rename it",
        ),
        (lambda model: (model / "model.safetensors").unlink(), "has no weights as safetensors", "save_pretrained"),
        (lambda model: (model / "adapter_config.json").touch(), "contains an adapter", "merge_and_unload"),
        (quantised, "is quantized on disk", "16-bit or 32-bit original"),
        (
            lambda model: (model / "config.json").write_text("{", encoding="utf-8"),
            "cannot be read",
            "download it again",
        ),
    ],
)
def test_model_that_cannot_be_trained_is_refused_and_nothing_is_made(
    tmp_path: Path, change: Callable[[Path], object], says: str, advice: str
) -> None:
    model = model_files(tmp_path / "model")
    change(model)
    with pytest.raises(UserError, match=says) as refused:
        create_home(tmp_path / "home", model=str(model))
    assert advice in str(refused.value.advice)
    assert not (tmp_path / "home" / "keepstep.toml").exists()


def test_model_by_its_directory_or_its_hub_id_is_taken(tmp_path: Path) -> None:
    """A directory that is still empty too: a download may fill it."""
    (tmp_path / "empty").mkdir()
    for name in (str(model_files(tmp_path / "model")), str(tmp_path / "empty"), "owner/name"):
        assert create_home(tmp_path / "homes" / Path(name).name, model=name).config.exists()


def test_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model directory"):
        create_home(tmp_path / "home", model=str(tmp_path / "nowhere"))


def test_a_second_init_waits_for_nobody_and_overwrites_nothing(tmp_path: Path) -> None:
    """One creates the home; the other is refused."""
    (tmp_path / "home").mkdir()
    fd = os.open(tmp_path / "home", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="another `keepstep init`"):
        create_home(tmp_path / "home", model="nowhere")
    os.close(fd)
    create_home(tmp_path / "home", model="first")
    with pytest.raises(UserError, match="a home already"):  # it had looked before the first one was done
        lay_out(Home(tmp_path / "home"), b"[model]\npath = 'second'\n")
    assert load_config(tmp_path / "home" / "keepstep.toml").job.model.path == "first"
