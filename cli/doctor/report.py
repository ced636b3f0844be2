"""`keepstep doctor`: one list of checks, however damaged the home is.

Each check is on its own: what goes wrong in one is its own finding, and the others go on. None of them changes
anything; with --fix, what can be mended without losing anything is mended, and looked at again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import typer

from cli.doctor import arithmetic, journal, machine, model
from cli.doctor import home as checks_home
from cli.doctor.context import Check, DoctorContext, Finding, Level, Unknown, failed, warned
from cli.errors import UserError, exit_code_of, explain
from cli.home.paths import CONFIG, Home, find_home
from cli.home.trust import Foreign, refuse_foreign

CHECKS = (
    Check("home", checks_home.layout, checks_home.make_missing),
    Check("permissions", checks_home.permissions, checks_home.close_to_others),
    Check("inbox", checks_home.inbox),
    Check("config", checks_home.config),
    Check("hooks", checks_home.hooks),
    Check("journal", journal.journal),
    Check("clock", journal.clock),
    Check("daemon", journal.daemon),
    Check("orphans", journal.orphans),
    Check("leftovers", checks_home.leftovers, checks_home.remove_leftovers),
    Check("status file", journal.status_file, journal.rebuild_status),
    Check("disk", machine.disk),
    Check("memory", machine.memory),
    Check("gpu", machine.gpu),
    Check("arithmetic", arithmetic.check),
    Check("libraries", machine.libraries),
    Check("model", model.model),
    Check("data", model.data),
    Check("checkpoints", model.checkpoints),
    Check("versions", model.versions),
    Check("backups", model.backups),
    Check("resume", model.resume),
)
"""In the order in which a person would mend things."""

MARKS: dict[Level, tuple[str, str]] = {"pass": ("pass", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}


class Line(NamedTuple):
    """One check, what it came to, and what was mended before."""

    name: str
    finding: Finding
    fixed: list[str]


def examine(home_option: Path | None, *, fix: bool, deep: bool, json: bool) -> bool:
    """`keepstep doctor`: whether nothing fails."""
    from cli.output.terminal import print_json

    lines = []
    for line in looked_at(damaged_home(home_option, fix=fix), fix=fix, deep=deep):
        lines.append(line)
        if not json:
            _show(line)
    levels = [line.finding.level for line in lines]
    good = "fail" not in levels
    if json:
        rows = [{"check": line.name, **line.finding._asdict(), "fixed": line.fixed} for line in lines]
        print_json({"good": good, "checks": rows})
    else:
        counts = f"{levels.count('pass')} pass, {levels.count('warn')} warn, {levels.count('fail')} fail"
        typer.echo(counts if deep else f"{counts}; --deep reads every byte and loads what is trained")
    return good


def looked_at(home: Home, *, fix: bool, deep: bool) -> Iterator[Line]:
    """Every check, one after the other."""
    context, failing = DoctorContext(home, deep=deep), dict[str, str]()
    for check in CHECKS:
        finding, fixed = _look(check, context), list[str]()
        if fix and check.fix is not None and finding.level != "pass":
            fixed, problem = _mended(check, context)
            context = DoctorContext(home, deep=deep)  # what was read before may be otherwise now
            finding = problem or _look(check, context)
        if finding.level == "fail":
            first = failing.setdefault(finding.says, check.name)
            finding = finding if first == check.name else warned(f"not looked at: {first} fails", "mend that first")
        yield Line(check.name, finding, fixed)


def _look(check: Check, context: DoctorContext) -> Finding:
    try:
        return check.look(context)
    except Exception as error:  # noqa: BLE001 - of a home in any state; the other checks go on
        return _what_failed(error)


def _mended(check: Check, context: DoctorContext) -> tuple[list[str], Finding | None]:
    """What was done, and why it could not be."""
    assert check.fix is not None
    try:
        return check.fix(context), None
    except Exception as error:  # noqa: BLE001 - as above
        found = _what_failed(error)
        return [], found._replace(says=f"it could not be mended: {found.says}")


def _what_failed(error: Exception) -> Finding:
    """An error as a finding: what a person can mend by its own words, and a bug as what it is."""
    match error:
        case Unknown():
            return warned(str(error), "mend that first")
        case UserError():
            return failed(error.reason, error.advice)
        case PermissionError():
            return failed(explain(error), "see the check of permissions")
    if exit_code_of(error) is None and not isinstance(error, OSError):
        return failed(f"the check itself went wrong: {type(error).__name__}: {error}", "please report this")
    return failed(" ".join(explain(error).split()), "mend that, then look again")


def damaged_home(given: Path | None, *, fix: bool = False) -> Home:
    """The home that a person means; one without its config, too, if it can be told that it is one.

    Raises UserError.
    """
    try:
        return find_home(given, reads_only=not fix, closes_it=True)
    except Foreign:
        raise
    except UserError:
        named = given or (Path(value) if (value := os.environ.get("KEEPSTEP_HOME")) else None)
        places = [named.expanduser().absolute()] if named is not None else [Path.cwd(), *Path.cwd().parents]
        for place in places:
            if (place / "journal" / "00000001.jsonl").exists() and (place / "checkpoints").is_dir():
                if fix:
                    refuse_foreign(place, place / CONFIG)
                return Home(place)
        raise


def _show(line: Line) -> None:
    mark, color = MARKS[line.finding.level]
    for what in line.fixed:
        typer.echo(f"{typer.style('fixed', fg='cyan')}  {line.name:<12} {what}")
    typer.echo(f"{typer.style(mark, fg=color)}   {line.name:<12} {line.finding.says}")
    if line.finding.advice:
        typer.echo(f"       {'':<12} → {line.finding.advice}")
