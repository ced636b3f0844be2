"""The main promise: killed at any moment, the weights come out as if nothing had happened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from events.settings import FullSettings
from tests.crash.homes import learned, log_of, make_home, run_to_the_end
from tests.crash.torture import check, make_calm_twin, torture

KILLS = int(os.environ.get("KILLS", "20"))
SEED = int(os.environ.get("SEED", "7"))


@pytest.mark.timeout(3600)
def test_killed_at_random_moments_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """Daemon, worker or both die with -9 at seeded moments; weights and optimizer state equal a calm run's."""
    home = make_home(tmp_path / "tortured")
    hit = torture(home, kills=KILLS, seed=SEED)
    assert hit.total() >= KILLS
    check(home)
    assert learned(home) == learned(make_calm_twin(home, tmp_path / "calm"))


WORKER_POINTS = ["staging_written", "staging_fsynced", "renamed", "before_report"]
DAEMON_POINTS = [
    "arrival_moved",
    "arrival_journaled",
    "arrival_named",
    "daemon_started",
    "checkpoint_reported",
    "checkpoint_journaled",
    "pruned",
]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is learned when nothing happens."""
    home = make_home(tmp_path_factory.mktemp("calm") / "home")
    assert run_to_the_end(home) == 0, log_of(home)
    check(home)
    return learned(home)


@pytest.mark.parametrize("point", [*WORKER_POINTS, *DAEMON_POINTS])
def test_killed_at_a_named_point_ends_with_the_same_bytes(point: str, tmp_path: Path, calm: dict[str, str]) -> None:
    """Each commit point, hit once: the next run cleans up, goes on, and arrives at the same weights."""
    home = make_home(tmp_path / "home")
    died = tmp_path / "died"
    count = 2 if point in WORKER_POINTS else 1
    code = run_to_the_end(home, KEEPSTEP_CRASH_AT=f"{point}:{count}", KEEPSTEP_CRASH_ONCE=str(died))
    assert died.exists(), "the point was never reached"
    if point in WORKER_POINTS:
        assert code == 0, log_of(home)  # the daemon lives on and starts another worker
    else:
        assert code == -9, log_of(home)
        assert run_to_the_end(home) == 0, log_of(home)
    check(home)
    assert learned(home) == calm


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_full_training_survives_kills_too(tmp_path: Path) -> None:
    """Every weight trained, in fp32: the same promise."""
    home = make_home(tmp_path / "tortured", method=FullSettings(), precision="fp32")
    torture(home, kills=8, seed=SEED)
    check(home)
    assert learned(home) == learned(make_calm_twin(home, tmp_path / "calm"))
