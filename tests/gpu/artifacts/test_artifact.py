"""Checkpoints, versions and backups are written, verified and restored by one protocol."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from gpu.artifacts.artifact import Artifact, CheckpointDirectory, find_problem
from gpu.artifacts.backup import BackupDirectory, BackupManifest, back_up
from gpu.artifacts.manifest import FileEntry
from gpu.artifacts.version_manifest import VersionDirectory, VersionManifest, find_base_problem
from gpu.errors import ArtifactBroken
from tests.gpu.helpers import CONTENTS, NAME, commit, manifest


class Written(NamedTuple):
    """An artifact and the SHA-256 that the journal would have."""

    artifact: Artifact[Any]
    manifest_sha256: str
    weights: str = "weights"
    """A file of it."""


def checkpoint(place: Path) -> Written:
    return Written(CheckpointDirectory(place / NAME), commit(place, manifest(), CONTENTS).manifest_sha256)


def version(place: Path) -> Written:
    made = VersionManifest(version="v001", checkpoint=manifest(), applied=1.0, files={})

    def complete_manifest(files: Mapping[str, FileEntry]) -> VersionManifest:
        return msgspec.structs.replace(made, files=dict(files))

    artifact = VersionDirectory(place / "v001")
    return Written(artifact, artifact.write(CONTENTS, complete_manifest).manifest_sha256)


def backup(place: Path) -> Written:
    original = checkpoint(place / "checkpoints")
    made = BackupManifest(
        backup="manual-0001",
        reason="",
        version=None,
        checkpoint=NAME,
        checkpoint_sha256=original.manifest_sha256,
        files={},
    )
    done = back_up(place, made, original.artifact.path)
    return Written(BackupDirectory(place / "manual-0001"), done.manifest_sha256, f"{NAME}/weights")


KINDS = pytest.mark.parametrize("write", [checkpoint, version, backup])


@KINDS
def test_a_changed_byte_is_found_only_by_reading_every_byte(tmp_path: Path, write: Callable[[Path], Written]) -> None:
    artifact, sha256, weights = write(tmp_path)
    assert find_problem(artifact, sha256, every_byte=True) is None
    (artifact.path / weights).write_bytes(b"x" + CONTENTS["weights"][1:])
    assert find_problem(artifact, sha256, every_byte=False) is None
    with pytest.raises(ArtifactBroken, match="weights does not have the SHA-256 of"):
        artifact.verify(sha256)


@KINDS
def test_missing_and_resized_files_are_found_without_reading_them(
    tmp_path: Path, write: Callable[[Path], Written]
) -> None:
    artifact, sha256, weights = write(tmp_path)
    (artifact.path / weights).write_bytes(CONTENTS["weights"][1:])
    assert "has 999 bytes" in str(find_problem(artifact, sha256, every_byte=False))
    (artifact.path / weights).unlink()
    assert find_problem(artifact, sha256, every_byte=False) == "weights is missing"


@pytest.mark.parametrize("write", [checkpoint, backup])
def test_a_checkpoint_holds_no_file_that_its_manifest_does_not_name(
    tmp_path: Path, write: Callable[[Path], Written]
) -> None:
    artifact, sha256, weights = write(tmp_path)
    (artifact.path / weights).with_name("more").write_bytes(b"")
    assert find_problem(artifact, sha256, every_byte=False) == "more is not in the manifest"


@KINDS
def test_a_manifest_that_the_journal_does_not_name_is_refused(tmp_path: Path, write: Callable[[Path], Written]) -> None:
    artifact, _, _ = write(tmp_path)
    assert "another SHA-256" in str(find_problem(artifact, "0" * 64, every_byte=False))
    shutil.rmtree(artifact.path)
    assert find_problem(artifact, "0" * 64, every_byte=False) == "its directory is missing"


def test_a_checkpoint_without_the_weights_that_it_says_it_trained_is_incomplete(tmp_path: Path) -> None:
    """Its list of files lacks them too."""
    made = msgspec.structs.replace(manifest(), parameters=(("layer.weight", (2, 3)),))
    sha256 = commit(tmp_path, made, CONTENTS).manifest_sha256
    problem = find_problem(CheckpointDirectory(tmp_path / NAME), sha256, every_byte=True)
    assert problem == "adapter_model.safetensors is missing"


def test_training_on_a_version_finds_changed_weights(tmp_path: Path) -> None:
    """A model that is trained on, not only one that is verified, is the one that was published."""
    contents = {"config.json": b"{}", "model.safetensors": b"w" * 1000}
    made = VersionManifest(version="v001", checkpoint=manifest(), applied=1.0, files={})
    version = tmp_path / "v001"
    VersionDirectory(version).write(contents, lambda files: msgspec.structs.replace(made, files=dict(files)))
    assert find_base_problem(version, version) is None
    (version / "model.safetensors").write_bytes(b"x" + contents["model.safetensors"][1:])
    assert "do not have the SHA-256" in str(find_base_problem(version, version))
    (version / "model.safetensors").unlink()
    assert find_base_problem(version, version) == "model.safetensors is missing"


@KINDS
def test_a_lost_artifact_is_restored_from_an_intact_copy_only(tmp_path: Path, write: Callable[[Path], Written]) -> None:
    artifact, sha256, weights = write(tmp_path)
    copy = artifact.path.rename(tmp_path / "copy")
    artifact.restore(copy, sha256)
    assert find_problem(artifact, sha256, every_byte=True) is None
    shutil.rmtree(artifact.path)
    (copy / weights).write_bytes(b"x" + CONTENTS["weights"][1:])
    with pytest.raises(ArtifactBroken, match="weights does not have the SHA-256 of the manifest"):
        artifact.restore(copy, sha256)
    assert not artifact.path.exists()
