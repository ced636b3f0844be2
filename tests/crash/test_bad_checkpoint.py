"""A committed checkpoint that is not what was committed is quarantined, and its steps run again to the same bits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.home.paths import Home
from events import kinds
from tests.crash.homes import log_of, make_home, run_to_the_end, state_of, trained
from tests.crash.torture import records_of

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def flip(home: Home, checkpoint: Path) -> None:
    """One bit of the weights."""
    path = checkpoint / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def lose_the_optimizer(home: Home, checkpoint: Path) -> None:
    """The file whose absence others pass over."""
    (checkpoint / "optimizer.safetensors").unlink()


def lose_everything(home: Home, checkpoint: Path) -> None:
    """The directory is gone."""
    shutil.rmtree(checkpoint)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the model and the two homes below lie."""
    return tmp_path_factory.mktemp("base")


@pytest.fixture(scope="module")
def calm(base: Path) -> Home:
    """A home that trained both files, undisturbed."""
    home = make_home(base / "calm")
    assert run_to_the_end(home) == 0, log_of(home)
    return home


@pytest.fixture(scope="module")
def halfway(base: Path) -> Home:
    """A home that trained the first file; the second lies next to it."""
    home = make_home(base / "halfway")
    (home.inbox / "second.jsonl").rename(base / "second.jsonl")
    assert run_to_the_end(home) == 0, log_of(home)
    return home


@pytest.mark.parametrize("damage", [flip, lose_the_optimizer, lose_everything])
def test_a_damaged_head_is_quarantined_and_its_steps_are_run_again(
    damage: Callable[[Home, Path], None], base: Path, calm: Home, halfway: Home, tmp_path: Path
) -> None:
    """The first file was trained; its last checkpoint is spoiled before the second begins."""
    home = Home(shutil.copytree(halfway.root, tmp_path / "home"))
    head = state_of(home).head.checkpoint
    assert head is not None
    damage(home, home.checkpoints / head.id)
    shutil.copy2(base / "second.jsonl", home.inbox)
    assert run_to_the_end(home) == 0, log_of(home)
    events = [record.event for record in records_of(home)]
    quarantined = [event for event in events if isinstance(event, kinds.CheckpointQuarantined)]
    assert [event.checkpoint for event in quarantined] == [head.id]
    assert not any(isinstance(event, kinds.DivergenceDetected) for event in events)
    assert trained(home) == trained(calm)
    assert state_of(home).outcomes.counts.trained == 2
    assert (home.quarantine / head.id).exists() == (damage is not lose_everything)
