"""The main promise: killed at any moment, the weights come out as if nothing had happened."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from events.settings import FullSettings
from tests.crash.checks import assert_same, calm_twin, check, check_given
from tests.crash.homes import log_of
from tests.crash.life import Life
from tests.crash.points import ALL, IN_WORKER, OUTSIDE, SKIPPING, Point, added_again, damaged, pausing_early, returning
from tests.crash.torture import Torture

KILLS = int(os.environ.get("KILLS", "10"))
SEED = int(os.environ.get("SEED", "7"))
CRITICAL = ["staging_fsynced", "renamed", "yield_saved"]
"""Of the worker's points: half a checkpoint, a whole one that nobody knows of, a pause that is not told."""


def tortured(life: Life, kills: int, named: list[str]) -> Torture:
    torture = Torture(life)
    torture.run(kills, named)
    assert torture.kills >= kills
    assert not torture.missed, torture.table()
    check(life.home)
    check_given(life)
    return torture


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_killed_at_random_and_at_telling_moments_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """Daemon, worker or both die with -9 at seeded moments; every step and file of the head equal a calm run's."""
    life = Life.real(tmp_path / "tortured", Random(SEED))
    tortured(life, KILLS, CRITICAL)
    assert_same(life.home, calm_twin(life, tmp_path / "calm"))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_killed_at_every_point_of_the_worker_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """Each of them once, in one life."""
    life = Life.real(tmp_path / "tortured", Random(SEED))
    tortured(life, 0, [name for name in IN_WORKER if name not in CRITICAL])
    assert_same(life.home, calm_twin(life, tmp_path / "calm"))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_full_training_survives_kills_too(tmp_path: Path) -> None:
    """Every weight trained, in fp32: the same promise."""
    life = Life.real(tmp_path / "tortured", Random(SEED), method=FullSettings(), precision="fp32")
    tortured(life, 8, [])
    assert_same(life.home, calm_twin(life, tmp_path / "calm"))


def test_killed_at_critical_points_a_fake_worker_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """Its weights are a chain of hashes: a step that is lost, repeated or out of order would change them."""
    life = Life.faked(tmp_path / "tortured", Random(SEED))
    tortured(life, 2, CRITICAL)
    assert_same(life.home, calm_twin(life, tmp_path / "calm"))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_killed_at_every_point_outside_the_worker_ends_the_same(tmp_path: Path) -> None:
    """Daemon and commands, each point once, in one life with a worker that trains nothing."""
    life = Life.faked(tmp_path / "tortured", Random(SEED))
    tortured(life, 0, OUTSIDE)
    assert_same(life.home, calm_twin(life, tmp_path / "calm"))


@pytest.mark.long
@pytest.mark.parametrize("name", OUTSIDE)
def test_killed_at_a_point_outside_the_worker_alone(name: str, tmp_path: Path) -> None:
    """The same points, a home for each and for each way that leads there: to find out which one it was."""
    for number, situation in enumerate(ALL[name].situations):
        if situation is pausing_early:
            continue  # the fake worker is quicker than any command
        life = Life.faked(tmp_path / f"home-{number}", Random(SEED))
        life.more()
        if situation in {added_again, damaged, pausing_early, returning}:
            life.to_the_end()
        kill_at(life, ALL[name]._replace(situations=[situation]))
        life.more()
        life.to_the_end()
        at_the_end(life)
        check_given(life)


@pytest.mark.parametrize("name", SKIPPING)
def test_a_skip_outlives_the_daemon(name: str, tmp_path: Path) -> None:
    """What was skipped is not trained on; what it had trained is committed or abandoned, never half."""
    life = Life.faked(tmp_path / "home", Random(SEED))
    life.more()
    kill_at(life, SKIPPING[name])
    life.to_the_end()
    at_the_end(life)
    assert life.state.outcomes.counts.skipped == 1
    assert life.state.outcomes.counts.trained == 1


def test_a_second_file_of_a_rejected_name_is_journaled_as_what_it_is(tmp_path: Path) -> None:
    """Killed after the move: the next daemon finds the file under its own name, not under the earlier one's."""
    life = Life.faked(tmp_path / "home", Random(SEED))
    life.put_bad()
    life.to_the_end()
    kill_at(life, ALL["rejected_moved"])
    life.to_the_end()
    at_the_end(life)
    check_given(life)


def kill_at(life: Life, point: Point) -> None:
    died = life.word("died")
    point.situations[0](life, KEEPSTEP_FAILPOINT=point.name, KEEPSTEP_FAILPOINT_ONCE=str(died))
    if life.process is not None:
        assert life.ended(60.0) == -9, log_of(life.home)
    assert died.exists(), f"the point was never reached\n{log_of(life.home)}"


def at_the_end(life: Life) -> None:
    life.waited.unlink(missing_ok=True)
    check(life.home)
