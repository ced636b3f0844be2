"""The model of the settings is looked for on this machine only, and refused for what its files show."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.config.checks.usable import find_problems
from cli.config.model_files import model_directory, refuse_unusable, weights_bytes
from cli.config.schema import Config
from cli.errors import UserError
from cli.home.paths import Home
from events.settings import JobSettings, ModelSettings
from tests.harness.hub_cache import put_in_cache
from tests.harness.tiny_model import EMPTY_SAFETENSORS, make_model_files

COMMIT = "1" * 40
OF_THE_HUB = ModelSettings(path="org/name")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def problems_of(model: str, directory: Path) -> list[str]:
    """The problems that `config check` finds with a model."""
    config = Config(job=JobSettings(model=ModelSettings(path=model)))
    return [each.reason for each in find_problems(Home(directory), config) if "model.path" in each.keys]


def test_hub_id_is_looked_for_in_the_cache(cache: Path, tmp_path: Path) -> None:
    """Without asking the hub."""
    assert model_directory(OF_THE_HUB, tmp_path) is None
    assert weights_bytes(OF_THE_HUB, tmp_path) is None
    assert problems_of("org/name", tmp_path) == []
    snapshot = put_in_cache(cache, "org/name", COMMIT, make_model_files(tmp_path / "source"))
    assert model_directory(OF_THE_HUB, tmp_path) == snapshot
    assert weights_bytes(OF_THE_HUB, tmp_path) == len(EMPTY_SAFETENSORS)


def test_weights_that_the_first_job_downloads_are_not_missed(cache: Path, tmp_path: Path) -> None:
    source = make_model_files(tmp_path / "source")
    (source / "model.safetensors").unlink()
    put_in_cache(cache, "org/name", COMMIT, source)
    assert problems_of("org/name", tmp_path) == []
    (problem,) = problems_of(str(source), tmp_path)
    assert "has no weights" in problem


def test_directory_that_is_missing_or_unreadable_is_refused(cache: Path, tmp_path: Path) -> None:
    (problem,) = problems_of(f"{tmp_path}/nowhere", tmp_path)
    assert f"there is no model at {tmp_path}/nowhere" in problem
    model = make_model_files(tmp_path / "model")
    (model / "config.json").unlink()
    (model / "config.json").mkdir()
    (problem,) = problems_of(str(model), tmp_path)
    assert "cannot be read" in problem


def test_a_model_without_weights_is_refused_unless_they_are_downloaded_later(tmp_path: Path) -> None:
    model = make_model_files(tmp_path / "model")
    refuse_unusable(model)
    (model / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no weights"):
        refuse_unusable(model)
    refuse_unusable(model, weights=False)
