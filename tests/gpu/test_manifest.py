"""Whether a directory is the checkpoint that was committed: every doubt is named."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct
from msgspec.structs import replace

from gpu import backup, sealed
from gpu.commit import commit
from gpu.manifest import MANIFEST, FileEntry, describe, names_below, problem_of, read_manifest
from journal.storage import Storage
from tests.gpu.helpers import CONTENTS, NAME, manifest, safetensors


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
def test_names_and_sizes_tell_without_reading_a_byte(
    tmp_path: Path, damage: Callable[[Path], object], says: str | None
) -> None:
    done = commit(tmp_path, manifest(), CONTENTS)
    damage(tmp_path / NAME)
    for every_byte in (False, True):
        assert problem_of(tmp_path / NAME, done.manifest_sha256, every_byte=every_byte) == says


def test_other_bytes_of_the_same_size_are_found_by_reading(tmp_path: Path) -> None:
    done = commit(tmp_path, manifest(), CONTENTS)
    flip(tmp_path / NAME)
    assert problem_of(tmp_path / NAME, done.manifest_sha256, every_byte=False) is None
    problem = problem_of(tmp_path / NAME, done.manifest_sha256, every_byte=True)
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
    problem = problem_of(tmp_path / NAME, done.manifest_sha256, every_byte=True, storage=Unreadable(name))
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
    assert problem_of(tmp_path / NAME, done.manifest_sha256, every_byte=True) == says


def test_reading_is_told_in_bytes(tmp_path: Path) -> None:
    done = commit(tmp_path, manifest(), CONTENTS)
    seen: list[bytes] = []
    problem_of(tmp_path / NAME, done.manifest_sha256, every_byte=True, watch=seen.append)
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
    problem = problem_of(directory, committed.manifest_sha256, every_byte=True)
    assert problem is None if says is None else problem is not None and says in problem


# -- manifests of somebody else -------------------------------------------------------------------------------------

KINDS: dict[str, tuple[str, Callable[..., str | None]]] = {
    "checkpoint": (MANIFEST, problem_of),
    "version": (sealed.SEAL, sealed.problem_of),
    "backup": (backup.SEAL, backup.problem_of),
}


def made(kind: str, names: Mapping[str, FileEntry]) -> dict[str, Any]:
    """A manifest of this kind that names these files."""
    if kind == "version":
        said: Struct = sealed.Sealed(checkpoint=manifest(), applied=None, files=dict(names))
    elif kind == "backup":
        said = backup.Backup(
            backup="manual-0001",
            reason="",
            version=None,
            checkpoint=NAME,
            checkpoint_sha256="0" * 64,
            files=dict(names),
        )
    else:
        said = replace(manifest(), files=dict(names))
    found: dict[str, Any] = msgspec.to_builtins(said)
    return found


def problem_with(kind: str, directory: Path, data: bytes) -> str | None:
    """What is wrong where the manifest of a directory is `data`, and was journaled as that."""
    name, problem = KINDS[kind]
    (directory / name).write_bytes(data)
    return problem(directory, hashlib.sha256(data).hexdigest(), every_byte=True)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file outside of the directory `tmp_path / NAME`, which a manifest wants to name."""
    (tmp_path / NAME).mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    return tmp_path / "secret"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["..", "../secret", "a/../../secret", "/etc/passwd", "{outside}", "../secret\0", "a\0b"]
)
def test_a_manifest_that_names_a_file_elsewhere_is_refused(kind: str, name: str, outside: Path) -> None:
    """Though size and SHA-256 of that file are as it says."""
    named = name.replace("{outside}", str(outside))
    data = msgspec.json.encode(made(kind, {named: describe(outside)}))
    said = problem_with(kind, outside.with_name(NAME), data)
    assert said == f"{KINDS[kind][0]} names a file outside of its directory, {named!r}"


@pytest.mark.parametrize("kind", ["checkpoint", "version"])
@pytest.mark.parametrize(("name", "says"), [("link", "link is not a file"), ("link/secret", "link"), ("", "")])
def test_a_manifest_that_names_a_file_by_a_link_is_refused(kind: str, name: str, says: str, outside: Path) -> None:
    """Of the file itself, or of a directory above it."""
    directory = outside.with_name(NAME)
    (directory / "link").symlink_to(outside if name == "link" else outside.parent)
    said = problem_with(kind, directory, msgspec.json.encode(made(kind, {name: describe(outside)})))
    assert said is not None
    assert says in said


def test_a_version_with_weights_elsewhere_is_refused(outside: Path) -> None:
    """Also by whoever reads it without a SHA-256, to train next to it."""
    data = msgspec.json.encode({**made("version", {}), "learned": ["../../elsewhere"]})
    said = problem_with("version", outside.with_name(NAME), data)
    assert said == "keepstep.json names a file outside of its directory, '../../elsewhere'"
    with pytest.raises(ValueError, match="outside of its directory"):
        sealed.read_sealed(outside.with_name(NAME))


def test_a_backup_of_a_checkpoint_elsewhere_is_refused(outside: Path) -> None:
    """It is not even looked at."""
    data = msgspec.json.encode({**made("backup", {}), "checkpoint": str(outside.parent)})
    said = problem_with("backup", outside.with_name(NAME), data)
    assert said is not None
    assert said.startswith("backup.json is damaged: ")
    assert said.endswith("`$.checkpoint`")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "broken",
    [
        lambda said: b"",
        lambda said: b"null",
        lambda said: b"[]",
        lambda said: msgspec.json.encode({**said, "files": ["weights"]}),
        lambda said: msgspec.json.encode({**said, "files": {"weights": 7}}),
        lambda said: msgspec.json.encode({**said, "files": {"weights": {"size_bytes": "7", "sha256": ""}}}),
        lambda said: msgspec.json.encode({**said, "files": None}),
        lambda said: msgspec.json.encode({**said, "format": 2}),
        lambda said: msgspec.json.encode(said).replace(b'"files"', b'"f\xff\xfeiles"'),
        lambda said: msgspec.json.encode(said).replace(b'"files":{', b'"files":{"\xed\xa0\x80":null'),
        lambda said: msgspec.json.encode(said)[:-1] + b',"more":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        lambda said: b"[" * 1_000_000,
        lambda said: b" " * (100 << 20) + msgspec.json.encode(said),
    ],
)
def test_a_manifest_that_is_none_is_refused(kind: str, broken: Callable[[Any], bytes], tmp_path: Path) -> None:
    """Other types, no text, nested too deep, 100 MB: a sentence, never a traceback."""
    (tmp_path / NAME).mkdir()
    said = problem_with(kind, tmp_path / NAME, broken(made(kind, {})))
    assert said is not None
    assert said.startswith((f"{KINDS[kind][0]} is damaged: ", f"{KINDS[kind][0]} cannot be read: it has 104,"))
