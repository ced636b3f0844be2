"""Old names of keys in keepstep.toml: they are still read, and each leads to one line that says what to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cli.errors import UserError
from events.upcasters import SETTINGS_ALIASES

TRIGGER_ALIASES = {"batch_set_aside": "batch_skipped"}
"""Old name → present name, in [hooks] notify_on."""


def present_key(key: str) -> str:
    """The present name of `section.name`."""
    section, _, name = key.partition(".")
    return f"{section}.{SETTINGS_ALIASES.get((section, name), name)}"


def with_present_names(document: dict[str, Any], path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The document with present names, and a line for each old one. Raises UserError if a key has both names."""
    lines: list[str] = []
    document = dict(document)
    for (section, old), new in SETTINGS_ALIASES.items():
        values = document.get(section)
        if not isinstance(values, dict) or old not in values:
            continue
        if new in values:
            raise UserError(
                f"{path}: {section}.{old} is the old name of {section}.{new}, and both are set", "delete one"
            )
        document[section] = {new if name == old else name: value for name, value in values.items()}
        lines.append(f"{path}: {section}.{old} is an old name; write {new} instead")
    hooks = document.get("hooks")
    triggers = hooks.get("notify_on") if isinstance(hooks, dict) else None
    if isinstance(triggers, list) and any(each in TRIGGER_ALIASES for each in triggers if isinstance(each, str)):
        present = [TRIGGER_ALIASES.get(each, each) if isinstance(each, str) else each for each in triggers]
        document["hooks"] = {**document["hooks"], "notify_on": present}
        old_names = ", ".join(each for each in triggers if each in TRIGGER_ALIASES)
        new_names = ", ".join(TRIGGER_ALIASES[each] for each in triggers if each in TRIGGER_ALIASES)
        lines.append(f"{path}: hooks.notify_on: {old_names} is an old name; write {new_names} instead")
    return document, tuple(lines)
