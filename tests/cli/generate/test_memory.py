"""The memory that a model may take next to a daemon."""

from __future__ import annotations

from contextlib import closing

import pytest
from msgspec.structs import replace

from cli.config.schema import Config, load_config
from cli.generate import memory as module
from cli.generate.memory import free_bytes, measure_budget
from cli.home.identity import DaemonLock, this_process
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from cli.machine.measure import MachineWatch
from core.commands import MeasureMemory
from core.topics.memory import is_short
from events.settings import JobSettings, MemorySettings, ModelSettings
from projections.machine import GpuView, GroupMemoryView, MemoryView, write_machine

GB = 10**9


def config(**memory: float) -> Config:
    return Config(job=JobSettings(model=ModelSettings(path="model")), memory=MemorySettings(**memory))


def view(available: int, *groups: int) -> MemoryView:
    named = tuple(GroupMemoryView(name=str(each), total_bytes=16 * GB, available_bytes=each) for each in groups)
    return MemoryView(total_bytes=32 * GB, available_bytes=available, worker_bytes=0, groups=named)


def test_without_a_daemon_all_that_is_available_may_be_taken() -> None:
    assert free_bytes(view(20 * GB), 0, None) == 20 * GB
    assert free_bytes(view(20 * GB, 3 * GB), 0, None) == 3 * GB


@pytest.mark.parametrize("worker", [0, 4 * GB, 20 * GB])
def test_next_to_a_daemon_its_training_is_not_held(worker: int) -> None:
    """With all of it taken, the daemon's rule says that memory is enough; with more, that it is short."""
    limits = MemorySettings()
    available = 30 * GB - worker
    free = free_bytes(view(available), worker, config())
    assert 0 < free < available
    taken = {
        more: MeasureMemory(
            total_bytes=32 * GB, available_bytes=available - free - more, worker_bytes=worker, limits=limits, groups=()
        )
        for more in (0, 10**6)
    }
    assert not is_short(taken[0])
    assert is_short(taken[10**6])


def test_limit_that_is_off_reserves_nothing() -> None:
    assert free_bytes(view(20 * GB), 0, config(hold_above=0.0)) == 20 * GB


def test_no_memory_is_left_is_zero() -> None:
    assert free_bytes(view(GB), 0, config()) == 0


def test_budget_of_a_home_with_and_without_a_daemon(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module, "_first_gpu", lambda: GpuView(name="card", memory_used_bytes=GB, memory_total_bytes=8 * GB)
    )
    loaded = load_config(home.config)
    alone = measure_budget(home, loaded, "auto")
    assert (alone.daemon_runs, alone.gpu_free_bytes, alone.gpu_total_bytes) == (False, 7 * GB, 8 * GB)
    assert measure_budget(home, loaded, "cpu").gpu_free_bytes is None
    machine = MachineWatch(home.root).measure(None)
    write_machine(home.machine, machine)
    lock = DaemonLock(home)
    lock.take(this_process())
    with closing(_Released(lock)):
        found = measure_budget(home, loaded, "auto")
        assert (found.daemon_runs, found.trains) == (True, False)
        folded, position = load_state(home)
        training = replace(folded.state, attempts=replace(folded.state.attempts, current=1))
        monkeypatch.setattr(module, "load_state", lambda _: (replace(folded, state=training), position))
        assert measure_budget(home, loaded, "auto").trains
    assert not measure_budget(home, loaded, "auto").trains


class _Released:
    """Lets `closing` release the lock."""

    def __init__(self, lock: DaemonLock) -> None:
        self.close = lock.release
