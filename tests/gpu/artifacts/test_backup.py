"""A backup holds all files of a checkpoint, those in subdirectories too."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpu.artifacts.artifact import CheckpointDirectory, find_problem
from gpu.artifacts.backup import BackupDirectory, BackupManifest, back_up
from gpu.errors import CheckpointBroken
from journal.storage import Storage
from tests.gpu.helpers import CONTENTS, NAME, commit, manifest

CONTENTS_BELOW = {**CONTENTS, "additional_chat_templates/tool_use.jinja": b"template"}


def backup_of(checkpoint_sha256: str) -> BackupManifest:
    return BackupManifest(
        backup="manual-0001", reason="", version=None, checkpoint=NAME, checkpoint_sha256=checkpoint_sha256, files={}
    )


def test_a_checkpoint_is_restored_with_its_subdirectories(tmp_path: Path) -> None:
    """From the copy alone, as it was committed."""
    sha256 = commit(tmp_path, manifest(), CONTENTS_BELOW).manifest_sha256
    made = back_up(tmp_path / "backups", backup_of(sha256), tmp_path / NAME)
    copy = BackupDirectory(tmp_path / "backups" / "manual-0001")
    assert find_problem(copy, made.manifest_sha256, every_byte=True) is None
    (tmp_path / NAME).rename(tmp_path / "lost")
    CheckpointDirectory(tmp_path / NAME).restore(copy.path / NAME, sha256)
    assert find_problem(CheckpointDirectory(tmp_path / NAME), sha256, every_byte=True) is None
    (copy.path / NAME / "additional_chat_templates" / "tool_use.jinja").write_bytes(b"TEMPLATE")
    assert "tool_use.jinja" in str(find_problem(copy, made.manifest_sha256, every_byte=True))


def test_an_incomplete_checkpoint_is_not_copied(tmp_path: Path) -> None:
    """It is refused before the bytes of its other files are copied."""
    sha256 = commit(tmp_path, manifest(), CONTENTS).manifest_sha256
    (tmp_path / NAME / "weights").unlink()
    copied: list[bytes] = []
    with pytest.raises(CheckpointBroken, match="weights is missing"):
        back_up(tmp_path / "backups", backup_of(sha256), tmp_path / NAME, copied.append)
    assert copied == []


def test_a_checkpoint_with_a_changed_byte_is_no_backup(tmp_path: Path) -> None:
    sha256 = commit(tmp_path, manifest(), CONTENTS).manifest_sha256
    (tmp_path / NAME / "weights").write_bytes(b"x" + CONTENTS["weights"][1:])
    with pytest.raises(CheckpointBroken, match="weights does not have the SHA-256"):
        back_up(tmp_path / "backups", backup_of(sha256), tmp_path / NAME)
    assert not (tmp_path / "backups" / "manual-0001").exists()


class LyingDisk(Storage):
    """A disk that stores other bytes than it was given. The page cache hides them until it is dropped."""

    def drop_cache(self, fd: int, offset: int = 0) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if path.name == "weights":
            with path.open("r+b") as file:
                file.write(b"x")


def test_a_copy_is_read_from_the_disk_and_not_from_the_page_cache(tmp_path: Path) -> None:
    sha256 = commit(tmp_path, manifest(), CONTENTS).manifest_sha256
    with pytest.raises(CheckpointBroken, match="weights does not have the SHA-256"):
        back_up(tmp_path / "backups", backup_of(sha256), tmp_path / NAME, storage=LyingDisk())
    assert not (tmp_path / "backups" / "manual-0001").exists()
