"""The cache keeps entries whole or not at all, and uses them only if every byte is intact."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from events.settings import CheckSettings, DataSettings, JobSettings, ModelSettings, Sources
from gpu.artifacts.manifest import MANIFEST
from gpu.data.examine.examination import Examination, FileFacts
from gpu.data.examine.report import Report
from gpu.data.plan import cache
from gpu.data.plan.cache import TokenCache, TokensManifest, cache_name, token_cache
from gpu.data.plan.store import TokenWriter
from gpu.errors import RowRejected, StorageFailed, YieldRequested
from tests.gpu.data.plan.test_store import chunk

JOB, TOKENIZER = "ab" * 32, "cd" * 32


def settings(**data: Any) -> JobSettings:
    return JobSettings(model=ModelSettings(path="m"), data=DataSettings(**data))


NAME = cache_name(JOB, TOKENIZER, settings())


def fill(writer: TokenWriter, _: TokenWriter) -> Report:
    writer.append(chunk((1, [5, 6, 7], [0, 0, 1]), (2, [8, 9], [0, 1])))
    return report(trained_tokens=2)


def report(**other: Any) -> Report:
    file = FileFacts("a.jsonl", JOB, 10, "JSON Lines", "text")
    examination = Examination(settings())
    return replace(examination.report(file, trained=2, tokens=5, trained_tokens=0), **other)


def make(place: Path, name: str = NAME) -> cache.CachedTokens:
    return TokenCache(place).make(name, JOB, TOKENIZER, fill)


def test_what_was_made_is_found_again(tmp_path: Path) -> None:
    made = make(tmp_path / "cache" / "tokens")
    found = token_cache(tmp_path).find(NAME)
    assert found is not None
    assert found.manifest == made.manifest
    assert found.tokens.ids.tolist() == made.tokens.ids.tolist() == [5, 6, 7, 8, 9]
    assert (found.manifest.report.trained, found.manifest.report.trained_tokens) == (2, 2)
    assert token_cache(tmp_path).find(NAME[:-1]) is None


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _forge(path: Path) -> None:
    """Change a count in the manifest, so that all else still fits."""
    path.write_bytes(path.read_bytes().replace(b'"trained_tokens": 2', b'"trained_tokens": 3'))


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a bit of the tokens": ("ids.i32", _flip),
    "a bit of the mask": ("learned.u8", _flip),
    "a bit of the ends": ("ends.i64", _flip),
    "a bit of the lines": ("lines.i64", _flip),
    "an end is missing": ("ids.i32", _shorten),
    "a file is missing": ("lines.i64", Path.unlink),
    "a file too many": ("more", Path.touch),
    "no manifest": (MANIFEST, Path.unlink),
    "a manifest of nothing": (MANIFEST, lambda path: path.write_bytes(b"{}")),
    "another count": (MANIFEST, _forge),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_ignored_and_made_again(tmp_path: Path, damage: str) -> None:
    """A damaged entry is never used, and does not prevent a new one."""
    whole = make(tmp_path)
    file, spoil = DAMAGE[damage]
    spoil(tmp_path / NAME / file)
    assert TokenCache(tmp_path).find(NAME) is None
    assert make(tmp_path).manifest == whole.manifest
    assert TokenCache(tmp_path).find(NAME) is not None


def test_a_shortened_entry_is_found_without_reading_its_bytes(tmp_path: Path) -> None:
    make(tmp_path)
    _shorten(tmp_path / NAME / "lines.i64")
    read: list[bytes] = []
    assert TokenCache(tmp_path).find(NAME, read.append) is None
    assert read == []


def test_what_has_another_name_is_not_believed(tmp_path: Path) -> None:
    make(tmp_path)
    other = NAME.replace("ab", "ef", 1)
    (tmp_path / NAME).rename(tmp_path / other)
    assert TokenCache(tmp_path).find(other) is None


def test_only_one_file_is_kept(tmp_path: Path) -> None:
    """Unfinished entries of killed processes are deleted too; foreign files stay."""
    make(tmp_path, NAME.replace("ab", "ef", 1))
    (tmp_path / f".staging-{NAME}.parts").mkdir()
    (tmp_path / f".staging-{NAME}").mkdir()
    (tmp_path / "notes").mkdir()
    make(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {NAME, "notes"}


def test_what_others_keep_is_found_and_left_alone(tmp_path: Path) -> None:
    make(tmp_path / "cache" / "tokens")
    scratch = token_cache(tmp_path, tmp_path / "scratch")
    assert scratch.find(NAME) is not None
    scratch.make(NAME, JOB, TOKENIZER, fill)
    assert (tmp_path / "cache" / "tokens" / NAME).exists()
    assert (tmp_path / "scratch" / ".tokens" / NAME).exists()


def test_what_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    def refuse(writer: TokenWriter, held_out: TokenWriter) -> Report:
        fill(writer, held_out)
        raise RowRejected("bad", 3, "says")

    with pytest.raises(RowRejected):
        TokenCache(tmp_path).make(NAME, JOB, TOKENIZER, refuse)
    assert not list(tmp_path.iterdir())


def test_an_error_during_the_commit_leaves_nothing(tmp_path: Path) -> None:
    """A request to yield ends a commit in this way."""

    def stop(_: bytes) -> None:
        raise YieldRequested("now")

    with pytest.raises(YieldRequested):
        TokenCache(tmp_path).make(NAME, JOB, TOKENIZER, fill, stop)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_to_is_the_disks_fault(tmp_path: Path) -> None:
    (tmp_path / "place").write_text("a file")
    with pytest.raises(StorageFailed):
        make(tmp_path / "place" / "cache" / "tokens")


def test_a_file_in_place_of_the_cache_is_moved_aside(tmp_path: Path) -> None:
    """The cache is made again, and the file, which may be a user's, is kept."""
    (tmp_path / "tokens").write_text("a file")
    make(tmp_path / "tokens")
    (aside,) = tmp_path.glob("tokens.aside-*")
    assert aside.read_text() == "a file"


@pytest.mark.parametrize("point", ["tokens_written", "tokens_kept"])
def test_an_entry_that_was_killed_midway_is_written_again_and_never_used(tmp_path: Path, point: str) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.gpu.data.plan.test_cache import make; make(Path(sys.argv[1]))"
    )
    root = Path(__file__).parents[4]
    environment = {"KEEPSTEP_FAILPOINT": point, "PYTHONPATH": str(root)}
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=environment, check=False)
    assert ended.returncode == -9
    found = TokenCache(tmp_path).find(NAME)
    assert (found is not None) == (point == "tokens_kept")
    assert make(tmp_path).tokens.ids.tolist() == [5, 6, 7, 8, 9]
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 9},
        {"format": "text"},
        {"prompt": "q", "completion": "a"},
        {"long": "drop"},
        {"bad_rows": "skip"},
    ],
)
def test_whatever_decides_the_tokens_is_in_the_name(change: dict[str, object]) -> None:
    assert cache_name(JOB, TOKENIZER, settings(**change)) != NAME


def test_the_tokenizer_our_own_code_and_the_libraries_are_in_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_name(JOB, "ef" * 32, settings()) != NAME
    assert cache_name(JOB, TOKENIZER, settings(packing=True)) == NAME  # that changes no token
    other = replace(settings(), sources=Sources(validation_sha256="12" * 32))
    assert cache_name(JOB, TOKENIZER, other) != NAME
    other = replace(settings(), checks=CheckSettings(rows={"same_role_twice": "refuse"}))
    assert cache_name(JOB, TOKENIZER, other) != NAME
    monkeypatch.setattr(cache, "code_sha256", lambda: "another")
    assert cache_name(JOB, TOKENIZER, settings()) != NAME
    monkeypatch.undo()
    monkeypatch.setattr(cache.importlib.metadata, "version", lambda _: "9.9")  # type: ignore[attr-defined]
    assert cache_name(JOB, TOKENIZER, settings()) != NAME


def test_the_fingerprint_of_the_rows_follows_what_batches_are_made_of(tmp_path: Path) -> None:
    manifest = make(tmp_path).manifest
    spoiled = {name: msgspec.structs.replace(entry, sha256="0" * 64) for name, entry in manifest.files.items()}
    for name in manifest.files:
        other = msgspec.structs.replace(manifest, files={**manifest.files, name: spoiled[name]})
        assert other.rows_sha256 != manifest.rows_sha256


def test_a_manifest_is_intact_as_it_was_written() -> None:
    manifest = TokensManifest(name=NAME, data_sha256=JOB, tokenizer_sha256=TOKENIZER, report=report(), files={})
    assert not manifest.is_intact()
    assert msgspec.json.decode(manifest.with_checksum().encode(), type=TokensManifest).is_intact()


def test_a_cache_that_goes_away_while_it_is_opened_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon deletes the entry while a command opens it."""
    make(tmp_path)
    whole = cache._intact_manifest

    def then_gone(directory: Path, on_chunk: Callable[[bytes], None]) -> TokensManifest | None:
        found = whole(directory, on_chunk)
        shutil.rmtree(directory)
        return found

    monkeypatch.setattr(cache, "_intact_manifest", then_gone)
    assert TokenCache(tmp_path).find(NAME) is None
