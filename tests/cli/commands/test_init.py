"""A home is made for a model that can be trained, by one process at a time, and refused for files that cannot."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from cli.commands.init import create_home, lay_out
from cli.config.schema import load_config
from cli.errors import UserError
from cli.home.paths import Home
from gpu.model.problems import find_problem
from tests.harness.tiny_model import make_model_files


@pytest.mark.parametrize("name", ["model.gguf", "adapter", "empty", "no-weights"])
def test_model_that_cannot_be_trained_is_refused_and_nothing_is_made(tmp_path: Path, name: str) -> None:
    """With the words of `find_problem`."""
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    (make_model_files(tmp_path / "no-weights") / "model.safetensors").unlink()
    problem = find_problem(tmp_path / name)
    assert problem is not None
    with pytest.raises(UserError) as refused:
        create_home(tmp_path / "home", model=str(tmp_path / name))
    assert (refused.value.reason, refused.value.advice) == (f"{tmp_path / name} {problem.what}", problem.advice)
    assert not (tmp_path / "home").exists()


def test_model_by_its_directory_or_its_hub_id_is_taken(tmp_path: Path) -> None:
    for name in (str(make_model_files(tmp_path / "model")), "owner/name"):
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
