"""What one version was trained on and another was not, and the questions that flipped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.arguments.resolve import ORIGIN, find_version_id
from cli.commands.common import read_state
from cli.commands.lineage import read_lineage
from cli.commands.models.evaluation import Flips, flips, flips_json, show_flips
from cli.home.paths import Home
from cli.output.terminal import print_json, print_listing, say

if TYPE_CHECKING:
    from projections.lineage import Part


def difference(home: Home, name: str, other: str) -> dict[str, Any]:
    """The parts of each version that the other does not have, by its id, the changed `settings`, and the flipped
    `questions`.

    Raises UserError for an unknown version, journal.errors.JournalError.
    """
    return _difference(home, name, other)[0]


def _difference(home: Home, name: str, other: str) -> tuple[dict[str, Any], Flips, dict[str, str]]:
    """The difference as JSON values, the scores that changed, and the names of the files by the id of their job."""
    state = read_state(home)
    name, other = (find_version_id(state, each, origin=True) for each in (name, other))
    one, two = (() if each == ORIGIN else tuple(read_lineage(home, each).parts) for each in (name, other))
    names = {part.job: part.name for part in (*one, *two)}
    scores = flips(home, state, name, other)
    found = {
        name: [_part_row(part) for part in _only_in(one, two)],
        other: [_part_row(part) for part in _only_in(two, one)],
        "settings": _changed_settings(one, two),
        "questions": flips_json(scores, names),
    }
    return found, scores, names


def show_difference(home: Home, name: str, other: str, *, json: bool) -> None:
    """`keepstep versions diff`."""
    found, scores, names = _difference(home, name, other)
    if json:
        print_json(found)
        return
    settings, _ = found.pop("settings"), found.pop("questions")
    for version, rows in found.items():
        if rows:
            say(f"trained only for {version}:")
            print_listing(["steps", "file", "rows", "SHA-256"], [list(map(str, row.values())) for row in rows])
        else:
            say(f"trained only for {version}: nothing")
    for change in settings:
        say(f"settings: {change}")
    before, after = found
    show_flips(scores, before, after, names)


def _only_in(parts: tuple[Part, ...], others: tuple[Part, ...]) -> list[Part]:
    there = {(part.job, part.global_from, part.global_to, part.attempts) for part in others}
    return [part for part in parts if (part.job, part.global_from, part.global_to, part.attempts) not in there]


def _part_row(part: Part) -> dict[str, Any]:
    return {
        "steps": f"{part.global_from + 1}-{part.global_to}",
        "file": part.name,
        "rows": part.plan.rows,
        "sha256": part.job,
    }


def _changed_settings(one: tuple[Part, ...], two: tuple[Part, ...]) -> list[str]:
    """The settings of the last steps of both, where they differ."""
    import msgspec

    if not one or not two:
        return []
    before, after = (msgspec.to_builtins(parts[-1].settings) for parts in (one, two))
    return [
        f"{section}.{key}: {before[section].get(key)} → {after[section].get(key)}"
        for section in before
        for key in sorted({*before[section], *after[section]})
        if before[section].get(key) != after[section].get(key)
    ]
