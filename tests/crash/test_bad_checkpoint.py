"""A committed checkpoint that is not what was committed: set aside, and its steps run again to the same bits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.home import Home
from events import kinds
from tests.crash.homes import learned, log_of, make_home, run_to_the_end, state_of
from tests.crash.torture import records_of


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


@pytest.mark.parametrize("damage", [flip, lose_the_optimizer, lose_everything])
def test_a_damaged_head_is_set_aside_and_its_steps_are_run_again(
    damage: Callable[[Home, Path], None], tmp_path: Path
) -> None:
    """The first file was learned; its last checkpoint is spoiled before the second begins."""
    calm = make_home(tmp_path / "calm")
    assert run_to_the_end(calm) == 0, log_of(calm)
    home = make_home(tmp_path / "home")
    second = home.inbox / "second.jsonl"
    second.rename(tmp_path / "second.jsonl")
    assert run_to_the_end(home) == 0, log_of(home)
    head = state_of(home).head
    assert head is not None
    damage(home, home.checkpoints / head.id)
    (tmp_path / "second.jsonl").rename(second)
    assert run_to_the_end(home) == 0, log_of(home)
    events = [record.event for record in records_of(home)]
    quarantined = [event for event in events if isinstance(event, kinds.CheckpointQuarantined)]
    assert [event.checkpoint for event in quarantined] == [head.id]
    assert not any(isinstance(event, kinds.DivergenceDetected) for event in events)
    assert learned(home) == learned(calm)
    assert state_of(home).counts.trained == 2
    assert (home.quarantine / head.id).exists() == (damage is not lose_everything)
