"""Debris: what stands on disk and is named by no record.

Only names that keepstep itself gives are touched; whatever else lies in its directories belongs to somebody.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cli.home import Home
from cli.ledger import Ledger
from core.commands import RecordSwept
from events.values import is_checkpoint_id
from gpu.crashpoints import reached
from journal import durable

STAGING = ".staging-"
CONDEMNED = ".condemned-"
"""What is being deleted is renamed first, so that half of a checkpoint never goes by its name."""


def sweep(ledger: Ledger) -> None:
    """Remove what is unfinished or unnamed in `checkpoints/`, and set quarantined ones aside.

    Only while no worker runs: what one has just put in place is unnamed until its word of it is journaled.
    """
    home, state = ledger.home, ledger.state
    named = {checkpoint.id for checkpoint in state.checkpoints}
    for path in _directories(home.checkpoints):
        name = path.name
        if name in state.quarantined:
            durable.rename_durably(path, _free(home.quarantine / name))
        elif is_checkpoint_id(name) and name not in named:
            discard(home, name)
        elif name.startswith(CONDEMNED):
            _remove(path)
        elif name.startswith(STAGING):
            size_bytes = sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
            _remove(path)
            ledger.execute(RecordSwept(path=home.relative(path), size_bytes=size_bytes))


def discard(home: Home, checkpoint: str) -> None:
    """Delete a checkpoint that the journal has given up. Gone already is the same as deleted."""
    condemned = home.checkpoints / (CONDEMNED + checkpoint)
    with suppress(FileNotFoundError):
        durable.rename_durably(home.checkpoints / checkpoint, condemned)
    reached("pruned")
    with suppress(FileNotFoundError):
        _remove(condemned)


def sweep_run(home: Home) -> None:
    """Remove the sockets of workers that are gone. Only for the daemon, before it starts a worker."""
    for path in home.run.glob("worker-*.sock"):
        path.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    shutil.rmtree(path)
    durable.fsync_directory(path.parent)


def _directories(parent: Path) -> Iterator[Path]:
    yield from sorted(path for path in parent.iterdir() if path.is_dir() and not path.is_symlink())


def _free(path: Path) -> Path:
    """`path`, or the next name beside it that is not taken."""
    free, count = path, 1
    while free.exists():
        count += 1
        free = path.with_name(f"{path.name}.{count}")
    return free
