"""What a home is, and what it takes on the disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.commands.homes.size import show_info, show_sizes, size_of
from cli.home.paths import Home


def test_sizes_name_the_command_that_frees_something(
    home: Home, drop: Callable[..., Path], run: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The head is never counted as something to free."""
    drop("a.jsonl", "ok ok ok ok ok ok")
    run()
    show_sizes(home, json=True)
    report = json.loads(capsys.readouterr().out)
    rows = {row["folder"]: row for row in report["folders"]}
    assert report["size_bytes"] == size_of(home.root)
    assert rows["checkpoints"]["command"] == "keepstep checkpoints prune --keep 1"
    assert 0 < rows["checkpoints"]["freeable_bytes"] < rows["checkpoints"]["size_bytes"]
    assert rows["data"]["freeable_bytes"] == 0
    show_sizes(home, json=False)
    assert "keepstep checkpoints prune --keep 1" in capsys.readouterr().out


def test_info_says_which_home_it_is(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    show_info(home, json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["path"] == str(home.root)
    assert report["made_by"] == report["keepstep"]
    assert report["created_at"].endswith("Z")
    show_info(home, json=False)
    assert report["id"] in capsys.readouterr().out
