"""The validation set is kept as it was, under its own hash."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pytest

from cli.errors import UserError
from cli.home import Home
from cli.validation import is_changed, validation_file, with_validation_kept
from events.settings import DataSettings, JobSettings, ModelSettings, Sources


def settings(validation: str | None) -> JobSettings:
    return JobSettings(model=ModelSettings(path="m"), data=DataSettings(validation=validation))


def test_it_is_kept_and_every_other_one_beside_it(home: Home) -> None:
    for content in (b"a", b"b", b"a"):
        (home.root / "held.jsonl").write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        assert with_validation_kept(home, settings("held.jsonl")).sources.validation_sha256 == sha256
        assert (home.validation / f"{sha256}.jsonl").read_bytes() == content
    assert len(list(home.validation.iterdir())) == 2


def test_where_none_is_named_nothing_is_kept(home: Home) -> None:
    assert with_validation_kept(home, settings(None)) == settings(None)
    assert not home.validation.exists()


def test_one_that_is_not_there_is_named(home: Home) -> None:
    with pytest.raises(UserError, match="there is no validation set at"):
        validation_file(home, settings("nowhere.jsonl"))


def test_one_that_is_no_file_is_named_and_not_opened(home: Home) -> None:
    """A directory would end the daemon with an error, and a pipe would have it wait for ever."""
    (home.root / "set").mkdir()
    os.mkfifo(home.root / "pipe")
    (home.root / "file").touch()
    for name in ("set", "pipe"):
        with pytest.raises(UserError, match=f"{name} is not a file"):
            with_validation_kept(home, settings(name))
    for name in ("file/below", "x" * 300):
        with pytest.raises(UserError, match="there is no validation set at"):
            with_validation_kept(home, settings(name))


def test_one_that_may_not_be_read_is_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person mends it; the daemon waits for that and does not end."""

    def refused(fd: int, **_: Any) -> str:
        raise PermissionError(13, "Permission denied")

    (home.root / "held.jsonl").touch()
    monkeypatch.setattr("cli.validation.describe_open", refused)
    with pytest.raises(UserError, match=r"held.jsonl cannot be read: Permission denied"):
        with_validation_kept(home, settings("held.jsonl"))


def test_what_a_person_changed_is_told_from_what_changes_by_itself() -> None:
    before = JobSettings(model=ModelSettings(path="m"), sources=Sources(replay=("a",)))
    assert not is_changed(before, JobSettings(model=ModelSettings(path="m")))
    assert is_changed(before, JobSettings(model=ModelSettings(path="n")))
    assert is_changed(None, before)
