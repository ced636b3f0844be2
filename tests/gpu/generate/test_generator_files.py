"""The files of a version are checked before a model is loaded from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from events.generation import ModelSource
from gpu.artifacts.version_manifest import VersionDirectory, VersionManifest
from gpu.errors import ArtifactBroken
from gpu.generate.generator import _find_files
from tests.gpu.helpers import CONTENTS, LORA, manifest, settings


def test_a_version_with_a_shortened_file_is_not_loaded(tmp_path: Path) -> None:
    """Of its tokenizer, too, whose bytes are not read then."""
    version = tmp_path / "versions" / "v001"
    made = VersionDirectory(version).write(
        CONTENTS, lambda files: VersionManifest(version="v001", checkpoint=manifest(), applied=1.0, files=dict(files))
    )
    source = ModelSource(settings=settings(LORA), version="v001", manifest_sha256=made.manifest_sha256)
    assert _find_files(tmp_path, source).weights == version
    (version / "weights").write_bytes(CONTENTS["weights"][1:])
    with pytest.raises(ArtifactBroken, match="weights has 999 bytes"):
        _find_files(tmp_path, source)
