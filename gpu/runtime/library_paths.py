"""Paths for libraries that accept only UTF-8: safetensors and tokenizers are written in Rust and refuse any other byte.

A directory name may hold any byte. Linux reaches such a directory under a second, clean path: `/proc/self/fd/N` for a
descriptor N that is open on it.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path


def library_path(path: Path) -> Path:
    """Return a path to the same file or directory that is valid UTF-8; `path` itself if it is. Raises OSError."""
    if _is_utf8(path):
        return path
    for parent in (path, *path.parents):  # the deepest part that is not UTF-8 is the last to be replaced
        if not _is_utf8(Path(parent.name)):
            return _descriptor_path(parent) / path.relative_to(parent)
    return path


@cache
def _descriptor_path(directory: Path) -> Path:
    """Open `directory` until this process ends, and return its path in /proc. A home needs few of them."""
    return Path(f"/proc/self/fd/{os.open(directory, os.O_PATH | os.O_CLOEXEC)}")


def _is_utf8(path: Path) -> bool:
    try:
        os.fsencode(path).decode()
    except UnicodeDecodeError:
        return False
    return True
