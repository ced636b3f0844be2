"""The validation set is kept as it was, under its own hash."""

from __future__ import annotations

import hashlib

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


def test_what_a_person_changed_is_told_from_what_changes_by_itself() -> None:
    before = JobSettings(model=ModelSettings(path="m"), sources=Sources(replay=("a",)))
    assert not is_changed(before, JobSettings(model=ModelSettings(path="m")))
    assert is_changed(before, JobSettings(model=ModelSettings(path="n")))
    assert is_changed(None, before)
