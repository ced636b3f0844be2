"""The snapshot equals the fold that it was taken of, or is ignored."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from core import commands
from events import kinds
from projections import snapshot as snapshots
from projections.fold import fold
from projections.progress import Folded
from projections.snapshot import Snapshot, read_snapshot, reducer_version, write_snapshot
from tests.core.world import World, seen, settings
from tests.projections.timeline import folded, records


def eventful() -> World:
    """A home with something in every corner of the state."""
    world = World()
    world.config = settings(keep=5)
    world.start()
    for steps in (4, 3):
        world.add(steps)
    world.run()
    world.add(9)
    for _ in range(5):
        world.now += 100
        world.turn()
        world.lose_worker()
    world.add(0, "high")
    for priority in ("low", "normal", "high"):
        world.add(5, priority)
    world.run_until(kinds.JobRejected)
    world.run_until(kinds.StepReached, 3)
    world.start()
    assert world.state.head.checkpoint is not None
    world.execute(commands.QuarantineCheckpoint(checkpoint=world.state.head.checkpoint.id, problem="rot"))
    world.execute(commands.HoldWork(reason="the config is broken", advice="fix it"))
    world.runs_out()
    return world


def taken(fold_of: Folded) -> Snapshot:
    """A snapshot by this very code."""
    return Snapshot(seq=9, crc="0a0b0c0d", segment=1, offset=512, reducer=reducer_version(), folded=fold_of)


def plain(whole: Folded) -> Folded:
    """A fold without what its state shares with later ones."""
    return replace(whole, state=seen(whole.state))


def test_a_snapshot_reads_back_as_it_was_taken(tmp_path: Path) -> None:
    """Queue, failed jobs, checkpoints, trail, troubles: everything."""
    whole = folded(eventful())
    state = whole.state
    assert len(state.queue)
    assert len(state.outcomes.failed)
    assert state.recovery.replay_ranges
    assert state.recovery.step_log.length
    assert state.recovery.quarantined
    assert state.daemon.hold
    assert state.disk.full
    path = tmp_path / "snapshot.json"
    write_snapshot(path, taken(whole))
    back = read_snapshot(path)
    assert back is not None
    assert plain(back.folded) == plain(whole)
    assert replace(back, folded=Folded()) == replace(taken(whole), folded=Folded())


def test_folding_on_from_a_snapshot_is_folding_all(tmp_path: Path) -> None:
    """From every record of an eventful life."""
    life = records(eventful())
    path = tmp_path / "snapshot.json"
    whole, states = Folded(), []
    for record in life:
        states.append(whole)
        whole = fold(whole, record)
    for at in range(0, len(life), 7):
        write_snapshot(path, taken(states[at]))
        back = read_snapshot(path)
        assert back is not None
        rest = back.folded
        for record in life[at:]:
            rest = fold(rest, record)
        assert plain(rest) == plain(whole)


def test_a_snapshot_by_other_code_is_ignored(tmp_path: Path) -> None:
    """Another reducer may have folded the same records to something else."""
    path = tmp_path / "snapshot.json"
    write_snapshot(path, replace(taken(Folded()), reducer="0123456789abcdef"))
    assert read_snapshot(path) is None


def test_a_missing_or_spoiled_snapshot_is_ignored(tmp_path: Path) -> None:
    """It is a cache: the journal knows everything."""
    path = tmp_path / "snapshot.json"
    assert read_snapshot(path) is None
    write_snapshot(path, taken(folded(eventful())))
    whole = path.read_bytes()
    for data in (b"", whole[:-1], whole[: len(whole) // 2], whole.replace(b'"normal"', b'"tired"'), b"\xff" + whole):
        path.write_bytes(data)
        assert read_snapshot(path) is None


def test_the_reducer_version_names_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte more in any module that folds, and older snapshots are not used."""
    before = reducer_version()
    assert before == reducer_version()
    changed = tmp_path / "core"
    changed.mkdir()
    (changed / "__init__.py").write_bytes(b"")
    (changed / "evolve.py").write_bytes(b"#")
    monkeypatch.setattr(snapshots.core, "__file__", str(changed / "__init__.py"))  # type: ignore[attr-defined]
    reducer_version.cache_clear()
    try:
        assert reducer_version() != before
    finally:
        reducer_version.cache_clear()


def test_a_snapshot_does_not_grow_with_the_history(tmp_path: Path) -> None:
    """What is finished has left: ten times the files, the same size to within the digits of a few numbers."""
    sizes = []
    for files in (80, 200):
        world = World()
        world.config = settings(keep=2)
        world.start()
        for _ in range(files):
            world.add(2)
        world.run()
        path = tmp_path / "snapshot.json"
        write_snapshot(path, taken(folded(world)))
        sizes.append(path.stat().st_size)
    assert sizes[1] - sizes[0] < 200


def test_the_fold_on_disk_is_json() -> None:
    """Anyone can look at it."""
    assert msgspec.json.decode(snapshots._encoder.encode(taken(folded(eventful()))))["seq"] == 9
