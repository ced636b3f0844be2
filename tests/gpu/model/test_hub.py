"""What a hub id means, by the cache alone: the hub itself is never asked here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from gpu.errors import ModelUnusable
from gpu.model import hub
from tests.harness.hub_cache import put_in_cache

FIRST, SECOND = "1" * 40, "2" * 40
MODEL = "org/name"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "config.json").write_bytes(b"{}")
    return tmp_path / "source"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "hf" / "hub"


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HUGGINGFACE_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({}, str(Path.home() / ".cache" / "huggingface" / "hub")),
    ],
)
def test_the_cache_is_where_the_hub_s_library_has_it(environment: dict[str, str], place: str) -> None:
    assert hub.cache_directory(environment) == Path(place)


@pytest.mark.parametrize(("said", "offline"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_requests_can_be_forbidden(said: str, offline: bool) -> None:
    assert hub.is_offline({"HF_HUB_OFFLINE": said}) == offline
    assert hub.is_offline({"TRANSFORMERS_OFFLINE": said}) == offline


def test_a_branch_means_the_commit_that_the_cache_has(cache: Path, source: Path) -> None:
    """A commit means itself, cached or not."""
    put_in_cache(cache, MODEL, FIRST, source)
    put_in_cache(cache, MODEL, SECOND, source, main=False)
    assert hub.resolve(MODEL) == hub.resolve(MODEL, "main") == FIRST
    assert hub.resolve(MODEL, SECOND) == SECOND
    assert hub.resolve(MODEL, "3" * 40) == "3" * 40
    (cache / "models--org--name" / "refs" / "main").write_text(SECOND, encoding="ascii")
    assert hub.resolve(MODEL) == SECOND
    assert [path.name for path in hub.snapshots(MODEL)] == [SECOND, FIRST]


@pytest.mark.parametrize(
    ("model", "revision", "is_wrong", "says"),
    [
        ("org/name", "next", False, "HF_HUB_OFFLINE is set, and the cache has no next of org/name"),
        ("other/name", "", False, "the cache has no main of other/name"),
        ("org/name/more", "", True, "is not a hub id"),
        ("org/na me", "", True, "is not a hub id"),
        ("org/name", "../../main", True, "is not a revision"),
        ("org/name", "a..b", True, "is not a revision"),
    ],
)
def test_what_means_no_commit_says_why(
    cache: Path, source: Path, model: str, revision: str, is_wrong: bool, says: str
) -> None:
    put_in_cache(cache, MODEL, FIRST, source)
    with pytest.raises(hub.CommitNotFound, match=says) as found:
        hub.resolve(model, revision)
    assert found.value.is_wrong == is_wrong


def test_a_snapshot_is_known_by_its_place(cache: Path, source: Path) -> None:
    snapshot = put_in_cache(cache, MODEL, FIRST, source)
    assert hub.snapshot(MODEL, FIRST) == snapshot
    assert hub.snapshot(MODEL, SECOND) is None
    assert hub.commit_of(snapshot) == FIRST
    assert hub.commit_of(source) == ""
    assert hub.how_to_pin(snapshot) == f"keepstep config set model.revision {FIRST}"


class Library:
    """In the place of huggingface_hub's download: what is asked for, of a repository with these files."""

    def __init__(self, cache: Path, files: dict[str, bytes]) -> None:
        self.snapshot, self.files, self.got = cache / "models--org--name" / "snapshots" / FIRST, files, set[str]()

    def download(
        self,
        model: str,
        *,
        revision: str,
        cache_dir: Path,
        allow_patterns: list[str],
        ignore_patterns: list[str],
        **_: object,
    ) -> str:
        from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

        assert (model, revision) == (MODEL, FIRST)
        for name in filter_repo_objects(self.files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            self.got.add(name)
            (self.snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            (self.snapshot / name).write_bytes(self.files[name])
        return str(self.snapshot)


SMALL = {"config.json": b"{}", "tokenizer.json": b"{}", "additional_chat_templates/a.jinja": b"", "merges.txt": b""}
INDEX = b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
NEVER = {"pytorch_model.bin": b"", "original/consolidated.pth": b"", "onnx/model.onnx": b"", "q.gguf": b""}


@pytest.mark.parametrize(
    ("weights", "others"),
    [
        ({"model.safetensors": b""}, {"consolidated.safetensors": b"", "original/model.safetensors": b""}),
        (
            {"model-1.safetensors": b"", "model-2.safetensors": b"", "model.safetensors.index.json": INDEX},
            {"consolidated.safetensors": b""},
        ),
        ({"weights.safetensors": b""}, {"original/more.safetensors": b""}),
    ],
)
def test_only_what_is_loaded_is_fetched(
    cache: Path, weights: dict[str, bytes], others: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository often has the same weights in several formats."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: Answer(FIRST))
    library = Library(cache, {**SMALL, **weights, **others, **NEVER})
    monkeypatch.setattr("huggingface_hub.snapshot_download", library.download)
    assert hub.fetch(MODEL, FIRST, weights=False) == library.snapshot
    assert library.got == {*SMALL, *(name for name in weights if name.endswith(".json"))}
    hub.fetch(MODEL, FIRST, weights=True)
    assert library.got == {*SMALL, *weights}


class Answer(NamedTuple):
    sha: str | None


def not_found(kind: str) -> Exception:
    from huggingface_hub import errors

    error: Exception = getattr(errors, kind).__new__(getattr(errors, kind))
    Exception.__init__(error, f"404: {kind}")
    return error


@pytest.mark.parametrize(
    ("said", "cached", "revision", "means"),
    [
        (Answer(SECOND), True, "", SECOND),
        (Answer(None), True, "", FIRST),
        (ConnectionError("no route"), True, "", FIRST),
        (ConnectionError("no route"), False, SECOND, SECOND),
        (ConnectionError("no route"), False, "", "no route"),
        ("RevisionNotFoundError", True, "next", "the hub has no next of org/name"),
        ("RevisionNotFoundError", False, SECOND, "the hub has no 2222"),
        ("RepositoryNotFoundError", False, "", "the hub has no org/name, or shows it only"),
        ("RepositoryNotFoundError", True, "", FIRST),
    ],
)
def test_the_hub_is_asked_first(
    cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch, said: object, cached: bool, revision: str, means: str
) -> None:
    """The cache decides where the hub says nothing; a commit that the hub does not know is refused."""

    def model_info(_: object, model: str, *, revision: str, timeout: float) -> Answer:
        assert (model, timeout) == (MODEL, hub.HUB_TIMEOUT_S)
        if isinstance(said, Answer):
            return said
        raise not_found(said) if isinstance(said, str) else said  # type: ignore[misc]

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    if cached:
        put_in_cache(cache, MODEL, FIRST, source)
    if hub.COMMIT.fullmatch(means):
        assert hub.resolve(MODEL, revision) == means
        return
    with pytest.raises(hub.CommitNotFound, match=means) as found:
        hub.resolve(MODEL, revision)
    assert found.value.is_wrong == means.startswith("the hub has no")


class File(NamedTuple):
    rfilename: str
    size: int | None = None


class Listing(NamedTuple):
    siblings: list[File] | None


@pytest.mark.parametrize(
    ("files", "size"),
    [
        ([File("model.safetensors", 10), File("consolidated.safetensors", 10), File("a.bin", 9)], 10),
        ([File("model-1-of-2.safetensors", 3), File("model-2-of-2.safetensors", 4), File("x.safetensors", 7)], 7),
        ([File("w.safetensors", 5), File("original/w.safetensors", 5)], 5),
        ([File("model.gguf", 5), File("config.json", 1)], 0),
        (None, 0),
        (ConnectionError("no route"), None),
    ],
)
def test_size_of_the_weights_on_the_hub_is_that_of_what_is_loaded(
    monkeypatch: pytest.MonkeyPatch, files: object, size: int | None
) -> None:
    def model_info(*_: object, files_metadata: bool, timeout: float, revision: str) -> Listing:
        assert (files_metadata, timeout, revision) == (True, hub.HUB_TIMEOUT_S, FIRST)
        if isinstance(files, Exception):
            raise files
        return Listing(files)

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    assert hub.weights_bytes(MODEL, FIRST) == size
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.weights_bytes(MODEL, FIRST) is None


@pytest.mark.parametrize(
    ("raised", "error", "says"),
    [
        ("GatedRepoError", hub.AccessRefused, "org/name is gated"),
        ("LocalEntryNotFoundError", ModelUnusable, "the hub cannot be reached (404: LocalEntryNotFoundError)"),
    ],
)
def test_download_that_fails_says_one_sentence(
    cache: Path, monkeypatch: pytest.MonkeyPatch, raised: str, error: type[Exception], says: str
) -> None:
    """Not the library's three."""

    def download(*_: object, **__: object) -> None:
        raise not_found(raised)

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: Answer(FIRST))
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(error, match=re.escape(says)):
        hub.fetch(MODEL, FIRST, weights=True)


def test_hub_that_does_not_answer_is_asked_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its library would try again for half a minute, and print an error each time."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    asked = []

    def model_info(*_: object, **__: object) -> None:
        asked.append(1)
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    with pytest.raises(ModelUnusable, match=re.escape("the hub cannot be reached (no route). Connect")):
        hub.fetch(MODEL, FIRST, weights=True)
    assert (asked, capfd.readouterr().err) == ([1], "")
