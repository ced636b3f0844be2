"""`keepstep doctor`: a list of checks that also works on a damaged home.

An error in one check is its finding, and the others still run. No check changes anything; --fix fixes what can be
fixed without losing anything, and checks it again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import typer

from cli.doctor import arithmetic, journal, machine, model
from cli.doctor import home as checks_home
from cli.doctor.context import Check, DoctorContext, Finding, Level, Unreadable, failed, warned
from cli.errors import UserError, error_text, exit_code_of
from cli.home.paths import CONFIG, Home, find_home
from cli.home.trust import ForeignHome, refuse_foreign
from cli.layout import fitted
from cli.output.terminal import ATTENTION, BAD, GOOD, NOTE, print_json, say, styled

CHECKS = (
    Check("home", checks_home.layout, checks_home.make_missing_directories),
    Check("permissions", checks_home.permissions, checks_home.restrict_permissions),
    Check("inbox", checks_home.inbox),
    Check("config", checks_home.config),
    Check("hooks", checks_home.hooks),
    Check("questions", checks_home.questions),
    Check("journal", journal.journal),
    Check("clock", journal.clock),
    Check("daemon", journal.daemon),
    Check("orphans", journal.orphans),
    Check("leftovers", checks_home.leftovers, checks_home.remove_leftovers),
    Check("status file", journal.status_file, journal.rebuild_status_file),
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
"""In the order in which a person would fix things."""

MARKS: dict[Level, tuple[str, str]] = {"pass": ("pass", GOOD), "warn": ("warn", ATTENTION), "fail": ("FAIL", BAD)}


class Line(NamedTuple):
    """A check, its finding, and what was fixed before."""

    name: str
    finding: Finding
    fixed: list[str]


def run_doctor(home_option: Path | None, *, fix: bool, deep: bool, json: bool) -> bool:
    """`keepstep doctor`: True if no check fails."""
    lines = []
    for line in run_checks(find_damaged_home(home_option, fix=fix), fix=fix, deep=deep):
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
        say(counts if deep else f"{counts}; --deep reads every byte and loads the model")
    return good


def run_checks(home: Home, *, fix: bool, deep: bool) -> Iterator[Line]:
    """Run every check, one after the other."""
    context, failing = DoctorContext(home, deep=deep), dict[str, str]()
    for check in CHECKS:
        finding, fixed = _run_check(check, context), list[str]()
        if fix and check.fix is not None and finding.level != "pass":
            fixed, problem = _run_fix(check, context)
            context = DoctorContext(home, deep=deep)  # the fix may have changed what was read before
            finding = problem or _run_check(check, context)
        if finding.level == "fail":
            first = failing.setdefault(finding.message, check.name)
            finding = finding if first == check.name else warned(f"not checked: {first} fails", "fix that first")
        yield Line(check.name, finding, fixed)


def _run_check(check: Check, context: DoctorContext) -> Finding:
    try:
        return check.run(context)
    except Exception as error:  # noqa: BLE001 - a damaged home may raise anything; the other checks still run
        return _finding_of_error(error)


def _run_fix(check: Check, context: DoctorContext) -> tuple[list[str], Finding | None]:
    """Returns what was fixed, and the finding if the fix failed."""
    assert check.fix is not None
    try:
        return check.fix(context), None
    except Exception as error:  # noqa: BLE001 - as above
        found = _finding_of_error(error)
        return [], found._replace(message=f"could not be fixed: {found.message}")


def _finding_of_error(error: Exception) -> Finding:
    """The finding for an error: its own message if a user can fix it, else a bug."""
    match error:
        case Unreadable():
            return warned(str(error), "fix that first")
        case UserError():
            return failed(error.reason, error.advice)
        case PermissionError():
            return failed(error_text(error), "see the check `permissions`")
    if exit_code_of(error) is None and not isinstance(error, OSError):
        return failed(f"the check itself crashed: {type(error).__name__}: {error}", "please report this bug")
    return failed(" ".join(error_text(error).split()), "fix that, then run `keepstep doctor` again")


def find_damaged_home(given: Path | None, *, fix: bool = False) -> Home:
    """The home, also one without keepstep.toml if its directories show that it is a home. Raises UserError."""
    try:
        return find_home(given, reads_only=not fix, closes_it=True)
    except ForeignHome:
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
        _show_line("fixed", NOTE, line.name, what)
    _show_line(mark, color, line.name, line.finding.message)
    if line.finding.advice:
        say(f"{'':20} → {line.finding.advice}", indent=22)


def _show_line(mark: str, color: str, name: str, text: str) -> None:
    found = f"{mark:<6} {name:<12} {text}"
    if sys.stdout.isatty():
        found = fitted(found, indent=20)
    typer.echo(styled(found[:5], color) + found[5:])
