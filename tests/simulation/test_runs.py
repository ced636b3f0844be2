"""Thousands of lives of the real daemon in a hostile world, each from one seed."""

from __future__ import annotations

import multiprocessing

import pytest

from cli.correction import build
from events import kinds
from tests.simulation.__main__ import play
from tests.simulation.every_call import columns
from tests.simulation.every_call import play as play_column
from tests.simulation.fault import Fault
from tests.simulation.runs import run_seed
from tests.simulation.world import ROOT, World

FEW, MANY = range(200), range(200, 2000)
"""Seeds. Most of what the simulation can find, it finds in the first few hundred; `make simulate` tries more."""
PROCESSES = multiprocessing.get_context("spawn")
"""New ones: the process of the tests may have threads, and a fork of it the locks that they hold."""
STRIDES = [97, pytest.param(29, marks=pytest.mark.long)]
"""Of the calls that fail in turn, one in so many here; each of them in `make simulate`."""


@pytest.fixture(autouse=True)
def _rows_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world has its own rows; other tests of this process read real ones."""
    monkeypatch.setattr(build, "examples_of", build.examples_of)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seeds", [FEW, pytest.param(MANY, marks=pytest.mark.long)], ids=["few", "many"])
def test_whatever_happens_nothing_committed_is_lost(seeds: range) -> None:
    """Power cuts, kills, failing and full disks, rot, wild clocks, dying workers, people at the keyboard."""
    with PROCESSES.Pool() as pool:
        problems = [
            f"seed {seed}: {problem}" for seed, _, problem in pool.imap_unordered(play, seeds, chunksize=8) if problem
        ]
    assert not problems, "\n".join(problems[:5])


@pytest.mark.timeout(900)
@pytest.mark.parametrize("stride", STRIDES)
def test_every_call_may_fail(stride: int) -> None:
    """EIO, ENOSPC, a short write, a kill, a power cut; once and for ever; in recovery too."""
    with PROCESSES.Pool() as pool:
        played = pool.starmap(play_column, [(column, 1 + number, stride) for number, column in enumerate(columns())])
    assert sum(count for _, count, _ in played) > 50
    assert not [problem for _, _, problems in played for problem in problems]


def test_a_seed_always_gives_the_same_run() -> None:
    """Otherwise nobody could look at a failure twice."""
    first, second = notes_of(11), notes_of(11)
    assert first == second
    assert len(first) > 10


def notes_of(seed: int) -> list[str]:
    """What happens under this seed, without the times that the daemon prints."""
    notes: list[str] = []
    run_seed(seed, notes.append)
    return [note[14:] if note.startswith("    ") else note for note in notes]


def test_a_full_disk_in_recovery_is_waited_out_in_peace() -> None:
    """The daemon says once that it is here, once that the disk is full, and then waits; it does not run in circles."""
    world = World(5)
    world.hostile = False
    world.lay_out()
    left = world.disk.process("an earlier daemon")
    for path in (ROOT / "data" / ".arriving", ROOT / "data" / ".arriving" / "normal-0123456789abcdef"):
        left.mkdir(path)
    world.write(left, path / "a.jsonl", b"1\n2\n")
    world.faults[0] = Fault("ENOSPC", 1, for_ever=True, only="rename")
    with world.invariants.open(segment_bytes=64 << 20):
        assert world.run_daemon() is None
        world.invariants.check_end()
        said = [type(record.event) for record in world.invariants.check()[1]]
    assert said.count(kinds.DaemonStarted) == 1
    assert said.count(kinds.StorageExhausted) < 20
    assert kinds.JobTrained in said
