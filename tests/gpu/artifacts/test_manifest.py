"""A directory that is not the committed checkpoint is refused with the reason."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gpu.artifacts.artifact import CheckpointDirectory, find_problem
from gpu.artifacts.manifest import MANIFEST, names_below, read_manifest
from journal.storage import Storage
from tests.gpu.helpers import CONTENTS, NAME, commit, manifest, safetensors


def flip(directory: Path) -> None:
    data = bytearray((directory / "weights").read_bytes())
    data[0] ^= 1
    (directory / "weights").write_bytes(data)


def cut(directory: Path) -> None:
    os.truncate(directory / "weights", 10)


def link(directory: Path) -> None:
    (directory / "weights").rename(directory.parent / "weights")
    (directory / "weights").symlink_to("../weights")


def hide(directory: Path) -> None:
    (directory / MANIFEST).unlink()
    (directory / MANIFEST).mkdir()


def rewrite(directory: Path) -> None:
    """A manifest that is as good as the other, but not the other."""
    path = directory / MANIFEST
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda directory: None, None),
        (shutil.rmtree, "its directory is missing"),
        (lambda directory: (directory / MANIFEST).unlink(), "manifest.json is missing"),
        (hide, "manifest.json cannot be read: it is a directory, not a file; move it away, then try again"),
        (rewrite, "manifest.json is not the one that was committed: it has another SHA-256"),
        (lambda directory: (directory / "weights").unlink(), "weights is missing"),
        (lambda directory: (directory / "more").touch(), "more is not in the manifest"),
        (cut, "weights has 10 bytes, the manifest says 1000"),
        (link, "weights is not a file"),
    ],
)
def test_names_and_sizes_show_damage_without_reading_a_byte(
    tmp_path: Path, damage: Callable[[Path], object], says: str | None
) -> None:
    done = commit(tmp_path, manifest(), CONTENTS)
    damage(tmp_path / NAME)
    for every_byte in (False, True):
        assert find_problem(CheckpointDirectory(tmp_path / NAME), done.manifest_sha256, every_byte=every_byte) == says


def test_other_bytes_of_the_same_size_are_found_by_reading(tmp_path: Path) -> None:
    done = commit(tmp_path, manifest(), CONTENTS)
    flip(tmp_path / NAME)
    assert find_problem(CheckpointDirectory(tmp_path / NAME), done.manifest_sha256, every_byte=False) is None
    problem = find_problem(CheckpointDirectory(tmp_path / NAME), done.manifest_sha256, every_byte=True)
    assert problem == "weights does not have the SHA-256 of the manifest"


class Unreadable(Storage):
    """One file's sectors are gone."""

    def read(self, fd: int, length: int, offset: int) -> bytes:
        if Path(f"/proc/self/fd/{fd}").readlink().name == self.name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(fd, length, offset)

    def __init__(self, name: str) -> None:
        self.name = name


@pytest.mark.parametrize("name", [MANIFEST, "weights"])
def test_a_disk_that_cannot_be_read_is_named_as_that(tmp_path: Path, name: str) -> None:
    done = commit(tmp_path, manifest(), CONTENTS)
    problem = find_problem(
        CheckpointDirectory(tmp_path / NAME, Unreadable(name)), done.manifest_sha256, every_byte=True
    )
    assert problem == f"{name} cannot be read: Input/output error"


SHAPES = {"a": (2, 3), "b": (4,)}
MOMENTS = {f"{name}.{moment}": shape for name, shape in SHAPES.items() for moment in ("exp_avg", "exp_avg_sq")}


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        ({"model.safetensors": SHAPES}, None),
        ({"adapter_model.safetensors": SHAPES}, None),
        ({}, "adapter_model.safetensors is missing"),
        ({"model.safetensors": {"a": (2, 3)}}, "model.safetensors lacks the tensor b"),
        ({"model.safetensors": {**SHAPES, "b": (2, 2)}}, "model.safetensors: b is (2, 2), not (4,)"),
        (
            {"model.safetensors": SHAPES, "optimizer.safetensors": MOMENTS},
            "optimizer.safetensors lacks the tensor step",
        ),
    ],
)
def test_the_tensors_are_those_of_the_manifest(tmp_path: Path, contents: Any, says: str | None) -> None:
    """Even where every byte is as it was written."""
    files = {"optimizer.safetensors": {**MOMENTS, "step": (2,)}, **contents}
    trained = msgspec.structs.replace(manifest(), parameters=tuple(SHAPES.items()))
    done = commit(tmp_path, trained, {name: safetensors(shapes) for name, shapes in files.items()})
    assert find_problem(CheckpointDirectory(tmp_path / NAME), done.manifest_sha256, every_byte=True) == says


def test_progress_of_reading_is_reported_in_bytes(tmp_path: Path) -> None:
    done = commit(tmp_path, manifest(), CONTENTS)
    seen: list[bytes] = []
    find_problem(CheckpointDirectory(tmp_path / NAME), done.manifest_sha256, every_byte=True, watch=seen.append)
    assert sum(map(len, seen)) == sum(each.size_bytes for each in read_manifest(tmp_path / NAME).files.values())


def extra_below(directory: Path) -> None:
    (directory / "templates" / "c.jinja").write_bytes(b"c")


def extra_directory(directory: Path) -> None:
    (directory / "templates" / "empty").mkdir()


def missing_below(directory: Path) -> None:
    (directory / "templates" / "a.jinja").unlink()


def link_for_directory(directory: Path) -> None:
    (directory / "templates").rename(directory.parent / "templates")
    (directory / "templates").symlink_to(directory.parent / "templates", target_is_directory=True)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda directory: None, None),
        (extra_below, "templates/c.jinja is not in the manifest"),
        (extra_directory, "templates/empty is not in the manifest"),
        (missing_below, "templates/a.jinja is missing"),
        (link_for_directory, "templates/a.jinja is missing"),
    ],
)
def test_files_in_subdirectories_are_checked_as_others(
    tmp_path: Path, damage: Callable[[Path], None], says: str | None
) -> None:
    """As a tokenizer with several chat templates has them."""
    contents = {**CONTENTS, "templates/a.jinja": b"a", "templates/b.jinja": b"b"}
    committed = commit(tmp_path, manifest(), contents)
    directory = tmp_path / NAME
    assert names_below(directory) == sorted([*contents, MANIFEST])
    damage(directory)
    problem = find_problem(CheckpointDirectory(directory), committed.manifest_sha256, every_byte=True)
    assert problem is None if says is None else problem is not None and says in problem
