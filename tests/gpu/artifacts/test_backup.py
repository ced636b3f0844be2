"""A backup holds all files of a checkpoint, those in subdirectories too."""

from __future__ import annotations

from pathlib import Path

from gpu.artifacts.artifact import CheckpointDirectory, find_problem
from gpu.artifacts.backup import BackupDirectory, BackupManifest, back_up
from tests.gpu.helpers import CONTENTS, NAME, commit, manifest

CONTENTS_BELOW = {**CONTENTS, "additional_chat_templates/tool_use.jinja": b"template"}


def test_a_checkpoint_is_restored_with_its_subdirectories(tmp_path: Path) -> None:
    """From the copy alone, as it was committed."""
    sha256 = commit(tmp_path, manifest(), CONTENTS_BELOW).manifest_sha256
    backup = BackupManifest(
        backup="manual-0001", reason="", version=None, checkpoint=NAME, checkpoint_sha256=sha256, files={}
    )
    made = back_up(tmp_path / "backups", backup, tmp_path / NAME)
    copy = BackupDirectory(tmp_path / "backups" / "manual-0001")
    assert find_problem(copy, made.manifest_sha256, every_byte=True) is None
    (tmp_path / NAME).rename(tmp_path / "lost")
    CheckpointDirectory(tmp_path / NAME).restore(copy.path / NAME, sha256)
    assert find_problem(CheckpointDirectory(tmp_path / NAME), sha256, every_byte=True) is None
    (copy.path / NAME / "additional_chat_templates" / "tool_use.jinja").write_bytes(b"TEMPLATE")
    assert "tool_use.jinja" in str(find_problem(copy, made.manifest_sha256, every_byte=True))
