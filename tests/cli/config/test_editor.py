"""`keepstep config edit`: a wrong text never becomes keepstep.toml, and is never lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.config.edit import set_keys
from cli.config.editor import EDITED, edit
from cli.errors import UserError
from cli.home.paths import Home


def replacing(old: str, new: str) -> Callable[[Path], None]:
    """An editor."""

    def run(path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    return run


def never(_: UserError) -> bool:
    return False


def test_an_edit_is_put_in_place_and_its_changes_are_named(home: Home) -> None:
    changed = edit(home, replacing("epochs = 1", "epochs = 2"), never)
    assert [(each.key, each.before, each.now) for each in changed.keys] == [("training.epochs", "1", "2")]
    assert "epochs = 2 #" in home.config.read_text(encoding="utf-8")
    assert not (home.root / EDITED).exists()


@pytest.mark.parametrize("new", ["epochs = 0", "epochs = ", "epoch = 2"])
def test_a_wrong_text_is_kept_and_the_next_edit_continues_with_it(home: Home, new: str) -> None:
    """keepstep.toml stays byte for byte."""
    before = home.config.read_bytes()
    seen: list[UserError] = []

    def not_again(error: UserError) -> bool:
        seen.append(error)
        return False

    with pytest.raises(UserError, match="was not changed") as refused:
        edit(home, replacing("epochs = 1", new), not_again)
    assert home.config.read_bytes() == before
    assert len(seen) == 1
    assert EDITED in refused.value.advice
    edit(home, replacing(new, "epochs = 3"), never)
    assert "epochs = 3 #" in home.config.read_text(encoding="utf-8")


def test_a_wrong_text_can_be_edited_again_at_once(home: Home) -> None:
    editors = [replacing("epochs = 1", "epochs = 0"), replacing("epochs = 0", "epochs = 5")]
    edit(home, lambda path: editors.pop(0)(path), lambda _: True)
    assert "epochs = 5 #" in home.config.read_text(encoding="utf-8")


def test_a_change_by_somebody_else_is_not_overwritten(home: Home) -> None:
    """Neither during the edit, nor between it and the next one."""

    def during(path: Path) -> None:
        set_keys(home, {"logs.days": "9"})
        replacing("epochs = 1", "epochs = 2")(path)

    with pytest.raises(UserError):
        edit(home, during, never)
    assert "days = 9 #" in home.config.read_text(encoding="utf-8")
    os.utime(home.root / EDITED, (1.0, 1.0))
    with pytest.raises(UserError, match="was changed after it"):
        edit(home, during, never)


def test_a_file_that_is_no_toml_can_be_edited(home: Home) -> None:
    """`config set` cannot help there."""
    text = home.config.read_text(encoding="utf-8")
    home.config.write_text(text.replace("epochs = 1", "epochs = "), encoding="utf-8")
    with pytest.raises(UserError, match="is not valid TOML") as refused:
        set_keys(home, {"training.epochs": "1"})
    assert "config edit" in refused.value.advice
    edit(home, replacing("epochs = ", "epochs = 1"), never)
    assert home.config.read_text(encoding="utf-8") == text


def test_an_edit_is_not_written_through_a_link(home: Home, tmp_path: Path) -> None:
    """Whatever else has the name of the copy is not the user's edit."""
    (home.root / EDITED).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        edit(home, replacing("epochs = 1", "epochs = 2"), never)
    assert not (tmp_path / "elsewhere").exists()
    assert "epochs = 1" in home.config.read_text(encoding="utf-8")
