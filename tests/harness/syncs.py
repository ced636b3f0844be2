"""Records what was synced to the disk, and names what a power cut could still take."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


class Syncs:
    """The syncs of this process since this object was made, by inode: a rename keeps it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, self._note)

    def _note(self, fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").resolve()
        inode = path.stat().st_ino
        if path.is_dir():
            self._names[inode] = {each.name: each.inode() for each in os.scandir(path)}
        else:
            self._contents[inode] = path.read_bytes()

    def lacks(self, *paths: Path) -> list[str]:
        """The names and contents of these files and directories that were not synced as they are now."""
        lacking = []
        for path in paths:
            inode = path.stat().st_ino
            if path.is_file() and self._contents.get(inode) != path.read_bytes():
                lacking.append(f"content of {path.name}")
            if self._names.get(path.parent.stat().st_ino, {}).get(path.name) != inode:
                lacking.append(f"name of {path.name}")
        return lacking
