"""A backup holds all files of a checkpoint, those in subdirectories too."""

from __future__ import annotations

from pathlib import Path

from gpu.artifacts.backup import Backup, back_up, problem_of, restore_backup
from gpu.artifacts.commit import commit
from gpu.artifacts.manifest import problem_of as problem_of_checkpoint
from tests.gpu.helpers import CONTENTS, NAME, manifest

CONTENTS_BELOW = {**CONTENTS, "additional_chat_templates/tool_use.jinja": b"template"}


def test_a_checkpoint_comes_back_with_its_subdirectories(tmp_path: Path) -> None:
    """From the copy alone, as it was committed."""
    sha256 = commit(tmp_path, manifest(), CONTENTS_BELOW).manifest_sha256
    seal = Backup(backup="manual-0001", reason="", version=None, checkpoint=NAME, checkpoint_sha256=sha256, files={})
    made = back_up(tmp_path / "backups", seal, tmp_path / NAME)
    copy = tmp_path / "backups" / "manual-0001"
    assert problem_of(copy, made.manifest_sha256, every_byte=True) is None
    (tmp_path / NAME).rename(tmp_path / "lost")
    restore_backup(copy, tmp_path / NAME, sha256)
    assert problem_of_checkpoint(tmp_path / NAME, sha256, every_byte=True) is None
    (copy / NAME / "additional_chat_templates" / "tool_use.jinja").write_bytes(b"TEMPLATE")
    assert "tool_use.jinja" in str(problem_of(copy, made.manifest_sha256, every_byte=True))
