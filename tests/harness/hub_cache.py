"""A hub's cache on this machine, laid out as huggingface_hub does: blobs, snapshots of links, refs."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path


def put_in_cache(cache: Path, model: str, commit: str, source: Path, *, main: bool = True) -> Path:
    """Add the files of `source` as a commit of `model`, and point its main branch at it. Returns the snapshot."""
    repository = cache / f"models--{model.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    for path in sorted(source.rglob("*")):
        if path.is_dir():
            continue
        blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, blob)
        link = snapshot / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    if main:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(commit, encoding="ascii")
    return snapshot
