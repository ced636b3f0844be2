"""The disk is full while the worker prepares, saves, consolidates: a real disk, the real daemon, the real worker.

What a full disk does to the journal and to the daemon's own files: `tests/crash/test_real_disks.py`.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from events import kinds
from events.kinds import ConsolidationAborted, StorageExhausted, StorageFreed
from tests.crash.homes import log_of, state_of
from tests.crash.real_disks import Disk, small_disk, why_not
from tests.drills.drill import Drill, Row

pytestmark = [
    pytest.mark.skipif(bool(why_not()), reason=f"no real disk to fill: {why_not()}"),
    pytest.mark.long,
    pytest.mark.timeout(600),
]

FULL: list[tuple[str, str]] = [
    ("disk full while a file is prepared", "row_prepared:5:full"),
    ("disk full while a checkpoint is saved", "file_written:9:full"),
    ("disk full while a version is made", "backed_up:1:full"),
]
"""The last one with something to consolidate."""


class OnDisk(NamedTuple):
    """A drill in a home that has a disk to itself."""

    drill: Drill
    disk: Disk


@pytest.fixture
def on_disk() -> Iterator[OnDisk]:
    """32 MB, nearly all of it free."""
    with small_disk() as disk:
        drill = Drill.real(disk.root / "home")
        try:
            yield OnDisk(drill, disk)
        finally:
            drill.close()


@pytest.fixture(scope="module")
def calm_version(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The version that is made of both files if nobody disturbs it: SHA-256 by file."""
    drill = Drill.real(tmp_path_factory.mktemp("calm") / "home")
    try:
        consolidated(drill)
        return version(drill)
    finally:
        drill.close()


def consolidated(
    drill: Drill,
    trouble: str = "never:1:hang",
    disk: Disk | None = None,
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """Learn both files, then make a version of them, and meet the trouble there."""
    drill.start()
    drill.ended()
    drill.command("consolidate")
    drill.start(trouble, disk=disk.root if disk else None)
    meanwhile()
    drill.ended()


def version(drill: Drill) -> dict[str, str]:
    """Its weights."""
    (made,) = state_of(drill.home).retention.versions
    paths = sorted((drill.home.versions / made.id).rglob("*.safetensors"))
    assert paths
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.parametrize(("name", "trouble"), FULL, ids=[each[1] for each in FULL])
def test_a_full_disk_is_waited_out_to_the_same_bits(
    name: str,
    trouble: str,
    on_disk: OnDisk,
    record: Callable[[Row], None],
    calm: dict[str, str],
    calm_version: dict[str, str],
) -> None:
    """Named for what it is, nothing abandoned; and room is all that it takes."""
    drill, disk = on_disk
    freed_at: list[float] = []

    def make_room() -> None:
        drill.until(lambda: drill.events(StorageExhausted) and state_of(drill.home).attempts.current is None)
        assert state_of(drill.home).disk.full is not None
        disk.free()
        freed_at.append(time.time())

    if trouble.startswith("backed_up"):
        consolidated(drill, trouble, disk, make_room)
        assert version(drill) == calm_version
    else:
        drill.start(trouble, disk=disk.root)
        make_room()
        drill.ended()
        assert drill.weights() == calm
    failed = drill.events(kinds.AttemptFailed, ConsolidationAborted)
    assert [each.failure for each in failed] == ["disk_full"], log_of(drill.home)
    assert not drill.events(kinds.JobFailed, kinds.DaemonHeld)
    said, at = drill.first(StorageExhausted)
    assert isinstance(said, StorageExhausted)
    _, seen = drill.first(StorageFreed)
    problem = said.message.partition(". Nothing committed is lost")[0].replace(f"{drill.home.root}/", "")
    where = re.sub(r"[0-9a-f]{12,}[-0-9a-f.]*", "…", problem)
    detected = f"`storage_exhausted`: {where}"
    did = f"waited, continued by itself {seen - freed_at[0]:.1f} s after there was room, to the same bits"
    record(Row(name, detected, f"{at - drill.troubled_at():.1f} s", drill.lost(), did))
