"""What a GGUF file is made from is checked before anything is written. Needs no llama.cpp."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpu.artifacts.manifest import FileEntry
from gpu.artifacts.version_manifest import VersionDirectory, VersionManifest
from gpu.errors import ArtifactBroken
from gpu.gguf import packages
from gpu.gguf.export import _model_directory, _publish, export_gguf
from gpu.gguf.packages import GgufUnavailable
from gpu.ipc.protocol import ExportGguf, ExportRequest, GgufProof
from tests.gpu.helpers import CONTENTS, manifest
from tests.harness.tiny_model import make_tiny_model

PROOF = GgufProof(prompts=1, same_answers=1, positions=1, agreement=1.0, distance=0.0, tolerance=0.1)


@pytest.fixture
def order(tmp_path: Path) -> ExportGguf:
    """Of a version that was published."""

    def complete(files: Mapping[str, FileEntry]) -> VersionManifest:
        return VersionManifest(version="v001", checkpoint=manifest(), applied=1.0, files=dict(files))

    VersionDirectory(tmp_path / "versions" / "v001").write(CONTENTS, complete)
    model = ExportRequest(
        home=str(tmp_path), checkpoint=None, version="v001", target=str(tmp_path / "out" / "gguf"), dtype=None
    )
    return ExportGguf(model=model, name="model", quantization="f16")


def test_a_version_with_a_changed_byte_is_not_converted(order: ExportGguf, tmp_path: Path) -> None:
    version = tmp_path / "versions" / "v001"
    assert _model_directory(order, tmp_path / "parts")[0] == version
    (version / "weights").write_bytes(b"x" + CONTENTS["weights"][1:])
    with pytest.raises(ArtifactBroken, match="weights does not have the SHA-256"):
        _model_directory(order, tmp_path / "parts")


def test_a_missing_package_is_named_before_anything_is_written(
    order: ExportGguf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "_find", lambda _: None)
    with pytest.raises(GgufUnavailable, match="a package that is not installed"):
        export_gguf(order)
    assert not (tmp_path / "out").exists()


def test_a_proven_file_is_published_with_its_size_and_sha256(order: ExportGguf, tmp_path: Path) -> None:
    made, target = tmp_path / "f16.gguf", tmp_path / "out" / "gguf"
    made.write_bytes(b"GGUF")
    reference: Any = SimpleNamespace(ends={})
    done = _publish(order, target, made, make_tiny_model(tmp_path / "model"), reference, PROOF, "ab" * 32, 0.0)
    assert (target / "model.gguf").read_bytes() == b"GGUF"
    assert (done.size_bytes, done.sha256) == (4, hashlib.sha256(b"GGUF").hexdigest())
    assert not made.exists()
