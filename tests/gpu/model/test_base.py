"""The base model's fingerprint."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from events.settings import ModelSettings
from gpu.errors import ModelUnusable
from gpu.model.base import base_directory, base_files, base_sha256, pin_revision
from tests.harness.hub_cache import put_in_cache


def model(directory: Path) -> Path:
    directory.mkdir()
    (directory / "config.json").write_bytes(b"{}")
    (directory / "model.safetensors").write_bytes(b"weights")
    (directory / "README.md").write_bytes(b"hello")
    return directory


def test_it_is_what_sha256sum_would_say(tmp_path: Path) -> None:
    """`sha256sum config.json model.safetensors | sha256sum`."""
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in CONTENTS]
    assert base_sha256(model(tmp_path / "m")) == hashlib.sha256("".join(lines).encode()).hexdigest()


CONTENTS = [("config.json", b"{}"), ("model.safetensors", b"weights")]


def test_other_weights_and_another_config_are_another_model_and_notes_are_not(tmp_path: Path) -> None:
    before = base_sha256(model(tmp_path / "m"))
    (tmp_path / "m" / "README.md").write_bytes(b"more")
    (tmp_path / "m" / "consolidated.safetensors").write_bytes(b"the same in another layout")
    assert base_sha256(tmp_path / "m") == before
    (tmp_path / "m" / "model.safetensors").write_bytes(b"Weights")
    os.utime(tmp_path / "m" / "model.safetensors", ns=(1, 1))
    weights = base_sha256(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_bytes(b"[]")
    os.utime(tmp_path / "m" / "config.json", ns=(1, 1))
    assert len({before, weights, base_sha256(tmp_path / "m")}) == 3


def test_what_was_read_once_is_not_read_again(tmp_path: Path) -> None:
    seen: list[bytes] = []
    first = base_sha256(model(tmp_path / "m"), seen.append)
    assert sorted(seen) == sorted(data for _, data in CONTENTS)
    assert base_sha256(tmp_path / "m", seen.append) == first
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("there", "files"),
    [
        (["model.safetensors", "x.safetensors"], ["config.json", "model.safetensors"]),
        (["x.safetensors", "y.safetensors"], ["config.json", "x.safetensors", "y.safetensors"]),
        (
            ["model.safetensors.index.json", "a.safetensors", "b.safetensors", "x.safetensors"],
            ["a.safetensors", "b.safetensors", "config.json", "model.safetensors.index.json"],
        ),
    ],
)
def test_the_files_are_those_that_transformers_loads(tmp_path: Path, there: list[str], files: list[str]) -> None:
    index = {"metadata": {}, "weight_map": {"w": "a.safetensors", "v": "b.safetensors", "u": "a.safetensors"}}
    for name in ["config.json", *there]:
        (tmp_path / name).write_text(json.dumps(index), encoding="utf-8")
    assert base_files(tmp_path) == files


FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that has two commits of org/name; the main branch is the second."""
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    source = model(tmp_path / "source")
    (source / "tokenizer.json").write_bytes(b"{}")
    put_in_cache(tmp_path / "hf" / "hub", "org/name", FIRST, source)
    (source / "model.safetensors").write_bytes(b"other weights")
    put_in_cache(tmp_path / "hf" / "hub", "org/name", SECOND, source)
    return tmp_path / "hf" / "hub"


def test_a_commit_is_used_whatever_the_main_branch_is(cache: Path, tmp_path: Path) -> None:
    """Without one, the main branch is what the cache has."""
    for commit in (FIRST, SECOND):
        assert base_directory("org/name", tmp_path, revision=commit).name == commit
    assert base_directory("org/name", tmp_path).name == SECOND
    with pytest.raises(ModelUnusable, match=f"hf download org/name --revision {'3' * 40}"):
        base_directory("org/name", tmp_path, revision="3" * 40)
    with pytest.raises(ModelUnusable, match="hf download org/other"):
        base_directory("org/other", tmp_path)


@pytest.mark.parametrize(
    "place", ["checkpoints/step-00000001-attempt-0001/manifest.json", "versions/v001/keepstep.json"]
)
def test_without_a_commit_a_home_stays_with_what_it_was_trained_on(cache: Path, tmp_path: Path, place: str) -> None:
    """When something else brings a newer main branch into the cache, the home does not follow it."""
    trained_on = base_sha256(base_directory("org/name", tmp_path, revision=FIRST))
    manifest = {"origin_sha256": trained_on} if "versions" in place else {"lineage": {"base_sha256": trained_on}}
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text(json.dumps(manifest), encoding="utf-8")
    assert base_directory("org/name", tmp_path).name == FIRST
    assert pin_revision(ModelSettings(path="org/name"), tmp_path).revision == FIRST
    assert pin_revision(ModelSettings(path="org/name", revision=SECOND), tmp_path).revision == SECOND


def test_a_directory_with_a_revision_is_refused(tmp_path: Path) -> None:
    model(tmp_path / "m")
    assert base_directory("m", tmp_path) == tmp_path / "m"
    assert pin_revision(ModelSettings(path="m"), tmp_path) == ModelSettings(path="m")
    with pytest.raises(ModelUnusable, match="a directory has no revisions"):
        base_directory("m", tmp_path, revision=FIRST)


def test_what_the_cache_lacks_of_a_commit_is_fetched_of_that_commit(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of the main branch, which may be another by then; and a tokenizer needs no weights."""
    snapshot = base_directory("org/name", tmp_path, revision=SECOND)
    (snapshot / "model.safetensors").unlink()
    asked = []
    monkeypatch.setattr("gpu.model.hub.fetch", lambda *what, weights: asked.append((*what, weights)))
    assert base_directory("org/name", tmp_path, weights=False) == snapshot
    assert base_directory("org/name", tmp_path) == snapshot  # offline: the loader says what is missing
    monkeypatch.delenv("HF_HUB_OFFLINE")
    base_directory("org/name", tmp_path, fetch=False)
    assert not asked
    base_directory("org/name", tmp_path)
    base_directory("org/name", tmp_path, revision="3" * 40, weights=False)
    assert asked == [("org/name", SECOND, True), ("org/name", "3" * 40, False)]


@pytest.mark.parametrize(
    "index",
    [
        b'{"weight_map": {"a": "../secret.safetensors"}}',
        b'{"weight_map": {"a": "/etc/passwd"}}',
        b'{"weight_map": ' + b"[" * 1_000_000,
        b'{"weight_map": 3}',
        b"\xff",
    ],
)
def test_an_index_that_leads_out_of_the_model_or_is_none_is_refused(tmp_path: Path, index: bytes) -> None:
    """No file of anybody is read by it."""
    (tmp_path / "model.safetensors.index.json").write_bytes(index)
    with pytest.raises(ModelUnusable, match=r"outside of its directory|is damaged"):
        base_files(tmp_path)
