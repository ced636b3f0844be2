"""The names of models, in homes with and without training."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.commands.init import create_home
from cli.errors import UserError
from cli.generate.models import find_model
from cli.home.paths import Home


def test_names_of_a_home_with_versions_and_checkpoints(consolidated_once: Path) -> None:
    home = Home(consolidated_once)
    head = find_model(home, "head")
    assert (head.source.checkpoint, head.source.version) == ("step-00000004-attempt-0003", "v001")
    assert head.description == "step-00000004-attempt-0003 on v001"
    for name in ("v001", "v1", "1", "001", "latest"):
        assert (find_model(home, name).source.version, find_model(home, name).source.checkpoint) == ("v001", None)
    for name in ("base", "origin"):
        assert (find_model(home, name).source.version, find_model(home, name).description) == (None, "model")
    assert find_model(home, "step-00000003").source.checkpoint == "step-00000003-attempt-0003"
    assert {find_model(home, name).note for name in ("head", "v1", "base")} == {""}


def test_head_is_the_version_when_nothing_is_trained_since(consolidated: Home) -> None:
    from contextlib import closing

    from cli.home.event_store import EventStore
    from core.commands import RollBack

    with closing(EventStore.open(consolidated)) as store:
        store.execute(RollBack())
    head = find_model(consolidated, "head")
    assert (head.source.version, head.source.checkpoint) == ("v001", None)
    assert head.note == "nothing is trained since v001: v001 answers"
    detached = find_model(consolidated, "step-00000004")
    assert (detached.source.version, detached.source.checkpoint) == ("v001", "step-00000004-attempt-0003")


def test_origin_is_the_first_model_while_it_is_there(consolidated: Home) -> None:
    """Whatever the config names by now."""
    config = consolidated.config.read_text(encoding="utf-8")
    consolidated.config.write_text(config.replace('path = "model"', 'path = "moved"'), encoding="utf-8")
    assert find_model(consolidated, "base").description == "moved"
    assert find_model(consolidated, "origin").description == "model"
    (consolidated.root / "model").rename(consolidated.root / "moved")
    assert find_model(consolidated, "origin").description == "moved"


def test_head_is_the_base_when_nothing_is_trained(tmp_path: Path) -> None:
    home = create_home(tmp_path / "new", model="some/model")
    head = find_model(home, "head")
    assert head.source == find_model(home, "base").source
    assert head.note == "nothing is trained yet: the base model answers"
    with pytest.raises(UserError, match="no version yet"):
        find_model(home, "latest")


@pytest.mark.parametrize("name", ["v002", "2", "v", "", "Head", "step-00000009", "0"])
def test_unknown_name_lists_what_there_is(consolidated_once: Path, name: str) -> None:
    with pytest.raises(UserError, match="there is no model") as caught:
        find_model(Home(consolidated_once), name)
    listed = "base, origin, head, latest, v001, step-00000003-attempt-0003, step-00000004-attempt-0003"
    assert caught.value.advice == f"choose one of: {listed}"


def test_ambiguous_name_lists_its_matches(consolidated_once: Path) -> None:
    with pytest.raises(UserError, match=r"2 checkpoints match 'step-0'.*attempt-0003, step-00000004") as caught:
        find_model(Home(consolidated_once), "step-0")
    assert caught.value.advice == "write more of the name"
