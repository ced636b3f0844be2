"""One tiny model for all tests of the worker."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub: no test may wait for a network

from tests.gpu.helpers import Home
from tests.harness.tiny_model import make_tiny_model


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What was rehearsed by an earlier test: the same model and settings need no second proof."""
    return tmp_path_factory.mktemp("rehearsed")


@pytest.fixture
def home(tmp_path: Path, model_directory: Path, rehearsed: Path, request: pytest.FixtureRequest) -> Home:
    """A home with the tiny model. Tests of the rehearsal itself start without any proof."""
    (tmp_path / "model").symlink_to(model_directory)
    if "rehears" not in request.path.name:
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "rehearsed").symlink_to(rehearsed)
    return Home(tmp_path)
