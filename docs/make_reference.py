"""Write the pages of `docs/reference/` that follow from the code.

    python docs/make_reference.py           write the pages
    python docs/make_reference.py --check   exit 1 if a page differs from the code

Commands come from the command line itself, settings from keepstep.toml as `init` writes it, events, failures and status
fields from their types and docstrings. Nothing on these pages is edited by hand.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import typer
from msgspec import Struct

from cli.app import app
from cli.config.schema import METHODS, Config
from cli.config.template import config_text
from core.failures import EXPLANATIONS
from events.codec import EVENT_TYPES, current_version, kind_of
from events.event import Event
from events.settings import JobSettings, ModelSettings
from projections.status import StatusView

FOLDER = Path(__file__).parent / "reference"

HEADER = "<!-- Written by docs/make_reference.py. Do not edit. -->\n"

COMMANDS = """
# Commands

`--home DIR` names the home; without it, keepstep looks for `keepstep.toml` in the current directory and above. `--json`
prints JSON for scripts, with times in ISO 8601, UTC; records of the journal are printed as they are stored. A job, a
version, a checkpoint or a backup can be named by its id, its file, the file without its ending, its number, or a
prefix. Every command of `keepstep journal` is also a command of the program `journal`.

"""

SETTINGS = """
# Settings

`keepstep.toml` as `keepstep init` writes it. `keepstep config show` prints the values in force. `keepstep config set
KEY=VALUE …` changes keys, all at once, and keeps everything else. `keepstep config unset KEY …` and `keepstep config
edit` do the rest. A job finishes under the settings that it started with.
"""

EVENTS = """
# Events

The kinds of events in the journal, in the order of their definition. [journal-format.md](journal-format.md) describes
the record around an event. `keepstep journal show --kind KIND` prints the records of one kind.
"""

FAILURES = """
# Failures

`keepstep failures` lists what failed. `keepstep explain NAME` shows one failure with its events.

"""

STATUS = """
# The status file

`status/status.json` in the home, and the output of `keepstep status --json`, which has ISO 8601 times where the file
has Unix times. The file is a view of the journal: if you delete it, the next command writes it again.

"""


# -- text -----------------------------------------------------------------------------------------------------------


def cell(text: str) -> str:
    """`text` as one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]] | list[tuple[str, ...]]) -> str:
    """A Markdown table; an empty text if it has no rows."""
    lines = [f"| {' | '.join(cell(each) for each in row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *lines]) + "\n"


@cache
def _attributes(kind: type) -> dict[str, str]:
    """The docstrings below the fields of a class."""
    body = ast.parse(inspect.cleandoc("\n" + inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        named = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[field.target.id] = str(after.value.value)
    return found


def meaning_of(kind: type, field: str) -> str:
    """The docstring below a field, in the class or in one that it extends."""
    for each in kind.__mro__:
        if field in getattr(each, "__annotations__", {}) and (text := _attributes(each).get(field)):
            return text
    return ""


def type_name(hint: Any) -> str:
    """A type as a reader of JSON or TOML knows it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is Literal:
        return ", ".join(f'"{each}"' if isinstance(each, str) else str(each) for each in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_name(each) for each in arguments))
    if origin in (tuple, list):
        return f"list of {type_name(arguments[0])}" if arguments else "list"
    if origin is dict:
        return "object"
    if hint is type(None):
        return "null"
    plain = {str: "string", int: "integer", float: "number", bool: "true or false"}
    if hint in plain:
        return plain[hint]
    if isinstance(hint, type) and issubclass(hint, Struct):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    return str(getattr(hint, "__name__", hint))


# -- commands -------------------------------------------------------------------------------------------------------


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        if command.invoke_without_command:
            yield path, command
        for name, each in command.commands.items():
            if not each.hidden:
                yield from _commands(each, f"{path} {name}")
    else:
        yield path, command


COMMON = ("help", "home", "json")
"""Options that many commands have; the page describes them once."""


def _parameters(command: Any) -> Iterator[tuple[str, ...]]:
    for each in command.params:
        if each.name in COMMON or each.hidden:
            continue
        if each.param_type_name == "option":
            name = " ".join(f"`{option}`" for option in (*each.opts, *each.secondary_opts))
            name += "" if each.is_flag else f" {(each.metavar or each.name).upper()}"
            default = (
                each.default if isinstance(each.default, str | int | float) and each.default not in (False, "") else ""
            )
        else:
            name, default = f"`{each.display_name_raw}`", ""
        yield name, str(default), each.help or ""


def commands_page() -> str:
    """Every command, with its arguments and options."""
    parts = [
        HEADER
        + COMMANDS
        + table(
            ("exit code", "meaning"),
            [
                ("0", "Done."),
                ("1", "Refused or failed; the reason is on standard error. `run --until-idle`: a file failed."),
                ("2", "The command line is wrong."),
                ("3", "The journal is damaged."),
                ("4", "Storage failed."),
                ("70", "A bug in keepstep; its traceback is on standard error."),
                ("130", "Interrupted."),
            ],
        )
    ]
    for path, command in _commands(typer.main.get_command(app), "keepstep"):
        parts.append(f"\n## `{path}`\n\n{inspect.cleandoc(command.help or '')}\n")
        if rows := list(_parameters(command)):
            parts.append("\n" + table(("argument or option", "default", "meaning"), rows))
    return "".join(parts)


# -- settings -------------------------------------------------------------------------------------------------------

_SECTION = re.compile(r"^\[(\w+)\]$")
_SETTING = re.compile(r"^(# )?(\w+) = (.*?)(?:\s+# (.*))?$")


def _settings(text: str) -> Iterator[tuple[str, str, str, str]]:
    """Section, key, value and comment of each line of a keepstep.toml."""
    section = ""
    for line in text.splitlines():
        if found := _SECTION.match(line):
            section = found[1]
        elif section and (found := _SETTING.match(line)):
            yield section, found[2], "not set" if found[1] else found[3], found[4] or ""


def _hints(section: str, method: str) -> dict[str, Any]:
    job = get_type_hints(JobSettings, include_extras=True)
    kind = METHODS[method] if section == "method" else job.get(section)
    kind = kind or get_type_hints(Config, include_extras=True)[section]
    return {"__kind__": kind, **get_type_hints(kind, include_extras=True)}


def settings_page() -> str:
    """Every key of keepstep.toml."""
    rows: dict[str, list[tuple[str, ...]]] = {}
    for method, kind in METHODS.items():
        config = Config(job=JobSettings(model=ModelSettings(path="MODEL"), method=kind()))
        for section, key, value, comment in _settings(config_text(config)):
            hints = _hints(section, method)
            known = {row[0] for row in rows.setdefault(section, [])}
            if f"`{key}`" not in known:
                text = comment or meaning_of(hints["__kind__"], key)
                rows[section].append((f"`{key}`", type_name(hints.get(key, str)), f"`{value}`", text))
    parts = [HEADER + SETTINGS]
    for section, each in rows.items():
        parts.append(f"\n## [{section}]\n\n{table(('key', 'type', 'default', 'meaning'), each)}")
    return "".join(parts)


# -- events, failures, status ---------------------------------------------------------------------------------------


def _fields(kind: type[Struct]) -> Iterator[tuple[str, ...]]:
    hints = get_type_hints(kind, include_extras=True)
    for field in msgspec.structs.fields(kind):
        if field.encode_name == "v" and issubclass(kind, Event):
            continue  # the version stands above the table
        yield f"`{field.encode_name}`", type_name(hints[field.name]), meaning_of(kind, field.name)


def _structs(kind: type[Struct], found: dict[str, type[Struct]]) -> None:
    def visit(hint: Any) -> None:
        if isinstance(hint, type) and issubclass(hint, Struct) and hint.__name__ not in found:
            found[hint.__name__] = hint
            _structs(hint, found)
        for each in get_args(hint):
            visit(each)

    for hint in get_type_hints(kind, include_extras=True).values():
        visit(hint)


def _structures(kinds: list[type[Struct]]) -> str:
    found: dict[str, type[Struct]] = {}
    for kind in kinds:
        _structs(kind, found)
    parts = []
    for name, kind in sorted(found.items()):
        about = inspect.cleandoc(kind.__doc__ or "")
        parts.append(f"\n### {name}\n\n{about}\n\n{table(('field', 'type', 'meaning'), _fields(kind))}")
    return "".join(parts)


def events_page() -> str:
    """Every kind of event in the journal."""
    parts = [HEADER + EVENTS]
    for kind in EVENT_TYPES:
        about = inspect.cleandoc(kind.__doc__ or "")
        parts.append(f"\n## `{kind_of(kind)}`\n\nVersion {current_version(kind)}. {about}\n")
        if rows := list(_fields(kind)):
            parts.append("\n" + table(("field", "type", "meaning"), rows))
    return "".join([*parts, "\n## Structures\n", _structures(list(EVENT_TYPES))])


def failures_page() -> str:
    """Every kind of failure: what it means, and what a person can do."""
    rows = [(f"`{name}`", each.meaning, each.advice) for name, each in EXPLANATIONS.items()]
    return HEADER + FAILURES + table(("failure", "what it means", "what to do"), rows)


def status_page() -> str:
    """The fields of `keepstep status --json`."""
    return (
        HEADER
        + STATUS
        + table(("field", "type", "meaning"), _fields(StatusView))
        + "\n## Structures\n"
        + _structures([StatusView])
    )


def pages() -> dict[str, str]:
    """Every generated page by its file name."""
    return {
        "commands.md": commands_page(),
        "settings.md": settings_page(),
        "events.md": events_page(),
        "failures.md": failures_page(),
        "status.md": status_page(),
    }


def main() -> int:
    """Write the pages, or compare them."""
    check = "--check" in sys.argv
    stale = [name for name, text in pages().items() if not _is_current(FOLDER / name, text)]
    if not check:
        FOLDER.mkdir(exist_ok=True)
        for name in stale:
            (FOLDER / name).write_text(pages()[name], encoding="utf-8")
    print(*(f"docs/reference/{name}" for name in stale), sep="\n")
    return int(check and bool(stale))


def _is_current(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
