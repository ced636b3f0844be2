"""Groups of commands, and options before a command."""

from __future__ import annotations

import pytest
from typer.core import TyperCommand
from typer.testing import CliRunner

from cli.app import app
from cli.arguments.groups import CommandGroup, ListGroup


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        ("", "list"),
        ("--json", "list --json"),
        ("hold x", "hold x"),
        ("--home list hold x", "hold --home list x"),
        ("--json --home=h hold x", "hold --json --home=h x"),
        ("nope", "nope"),
        ("-h", "-h"),
        ("--json -h", "--json -h"),
    ],
)
def test_the_command_comes_first(given: str, parsed: str) -> None:
    """Without one, the group lists."""
    assert (
        ListGroup(
            name="queue", commands={"list": TyperCommand(name="list"), "hold": TyperCommand(name="hold")}
        ).command_first(given.split())
        == parsed.split()
    )


def test_a_group_without_a_list_prints_its_help() -> None:
    assert CommandGroup(name="data", commands={"check": TyperCommand(name="check")}).command_first([]) == ["--help"]


def test_a_wrong_value_is_named_without_the_type_of_an_exception() -> None:
    ended = CliRunner().invoke(app, ["logs", "--level", "loud"], env={"COLUMNS": "200"})
    assert ended.exit_code == 2
    assert "Invalid value for '--level': 'loud' is not one of 'debug'" in ended.output
