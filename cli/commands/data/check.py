"""Carry out `keepstep data check`: ask the checking process, and print what it found."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import replace

from cli.commands.data import advice, cost
from cli.errors import UserError
from cli.home.paths import Home, find_home
from cli.text import shown_text
from journal.errors import JournalError, JournalMissing

if TYPE_CHECKING:
    from events.settings import JobSettings, ModelSettings
    from gpu.data.examine.report import Report
    from gpu.ipc.protocol import Checked


class Wanted(NamedTuple):
    """The options of `keepstep data check`."""

    model: str | None = None
    home: Path | None = None
    preview: int = 0
    row: int | None = None
    auto_adjust: bool = False
    yes: bool = False
    json: bool = False


class Place(NamedTuple):
    """The settings to check with, and where they are from."""

    home: Home
    settings: JobSettings
    is_home: bool
    """False outside of a home: the settings are the defaults, for the named model."""


class Examined(NamedTuple):
    """Everything that a check finds out. One report, one preview and one cost for each file."""

    place: Place
    checked: Checked
    costs: Sequence[cost.Cost | None]
    """None: the daemon would not train on the file."""
    machine: cost.Machine
    changes: Sequence[advice.Change]
    """The advised changes of keepstep.toml."""
    locked: Collection[str]
    """Keys that cannot change now."""

    @property
    def is_good(self) -> bool:
        """True if the daemon would accept all files."""
        return all(report.verdict == "good" for report in self.checked.reports)


def check_files(files: Sequence[Path], wanted: Wanted) -> bool:
    """`keepstep data check`: True if the daemon would accept all files. Raises UserError."""
    for path in files:
        if not path.is_file():
            raise UserError(f"{path} {'is not a file' if path.exists() else 'does not exist'}; nothing was checked")
    place = _place_to_adjust(wanted) if wanted.auto_adjust else settings_for(wanted.model, wanted.home)
    if wanted.row is not None:
        return _show_row(files, _ask(files, place, wanted), wanted)
    found = examine(files, place, wanted)
    if wanted.json:
        made = advice.adjust(place.home, found.changes, found.locked, yes=wanted.yes) if wanted.auto_adjust else None
        _print_json(found, made, wanted)
    else:
        _print_text(files, found, wanted)
    return found.is_good


def examine(files: Sequence[Path], place: Place, wanted: Wanted) -> Examined:
    """Check files and estimate what training on them costs. Prints nothing. Raises UserError."""
    checked = _ask(files, place, wanted)
    machine, history = cost.measure_machine(), _history(place)
    costs = [_cost(report, place, checked, machine, history) for report in checked.reports]
    changes = advice.advise(checked.reports, place.settings, checked.shape, machine)
    return Examined(place, checked, costs, machine, changes, history.locked)


def _place_to_adjust(wanted: Wanted) -> Place:
    """The home whose keepstep.toml may be changed. Raises UserError."""
    advice.refuse_without_consent(yes=wanted.yes, json=wanted.json)
    if wanted.model is not None:
        raise UserError(
            "keepstep.toml was not changed: --auto-adjust is for the model of the home, and --model names another",
            "leave out --model, or set it first: `keepstep config set model.path`",
        )
    find_home(wanted.home)  # unlike a check, this changes the home, so its owner must be trusted
    return settings_for(None, wanted.home)


def _ask(files: Sequence[Path], place: Place, wanted: Wanted) -> Checked:
    import msgspec

    from cli.config.plain_text import may_be_plain_text
    from cli.config.validation_set import validation_file
    from cli.home.subprocesses import ask, refused
    from cli.home.trust import resolve_link
    from gpu.ipc.protocol import Check, Checked, Refusal

    validation = validation_file(place.home, place.settings)
    # Only `gpu.data.processes.file_check` opens the files, each once.
    there = [resolve_link(path.absolute()) for path in files]
    named = zip(files, there, strict=True)
    request = Check(
        home=str(place.home.root),
        files=tuple(map(str, there)),
        plain_text=tuple(str(target) for path, target in named if may_be_plain_text(place.settings, path.name)),
        settings=place.settings,
        validation=None if validation is None else str(validation),
        preview=wanted.preview,
        row=wanted.row,
    )
    reply = ask("gpu.data.processes.file_check", request, otherwise="fix the installation, then try again")
    answer = msgspec.json.decode(reply, type=Checked | Refusal)
    if isinstance(answer, Refusal):
        raise refused("the files could not be checked", answer, "name another model with --model")
    return answer


def settings_for(model: str | None, home_option: Path | None) -> Place:
    """The home and its settings; outside of a home the defaults, for the named model. Raises UserError."""
    from cli.config.schema import load_config
    from events.settings import JobSettings, ModelSettings

    try:
        home = find_home(home_option, reads_only=True)
    except UserError:
        if model is None or home_option is not None:
            raise
        settings = JobSettings(model=_with_model(ModelSettings(path=model), model))
        return Place(Home(Path.cwd()), settings, is_home=False)
    settings = load_config(home.config).job
    if model is not None:
        settings = replace(settings, model=_with_model(settings.model, model))
    return Place(home, _with_sources(home, settings), is_home=True)


def _with_sources(home: Home, settings: JobSettings) -> JobSettings:
    """The settings with the earlier files whose rows are mixed in, as for the next attempt."""
    if not settings.data.replay:
        return settings
    from cli.commands.common import read_state
    from core.topics.attempts import with_sources

    return with_sources(settings, read_state(home), "")


def _with_model(settings: ModelSettings, model: str) -> ModelSettings:
    """`settings` with another model: a directory, a hub id, or NAME@REVISION. Raises UserError."""
    from cli.config.pinning import resolve_model

    if Path(model).is_dir():
        return replace(settings, path=str(Path(model).absolute()), revision="")
    if "@" not in model:
        return settings if model == settings.path else replace(settings, path=model, revision="")
    named = resolve_model(model, tokenizer_only=True)
    return replace(settings, path=named.path, revision=named.revision)


class History(NamedTuple):
    """Facts from the journal of the home."""

    speed: cost.Speed | None = None
    locked: Collection[str] = ()
    """Keys of keepstep.toml that cannot change now."""
    problem: str = ""
    """The reason why the journal cannot be read. Data can be checked without it."""


def _history(place: Place) -> History:
    if not place.is_home:
        return History()
    try:
        return History(cost.measure_speed(place.home, place.settings), advice.keys_locked_now(place.home))
    except JournalMissing:
        return History()
    except JournalError as error:
        return History(problem=str(error).partition("\n")[0])


def _cost(report: Report, place: Place, checked: Checked, machine: cost.Machine, history: History) -> cost.Cost | None:
    """The cost of a file; None if the daemon would not train on it."""
    if report.verdict != "good":
        return None
    found = cost.cost_of(report, place.settings, checked.shape, machine, history.speed)
    return replace(found, journal_problem=history.problem)


# -- output ---------------------------------------------------------------------------------------------------------


def _print_text(files: Sequence[Path], found: Examined, wanted: Wanted) -> None:
    from cli.commands.data.preview_text import print_preview
    from cli.commands.data.report_text import finding_rows, report_rows
    from cli.output.terminal import Row, print_report

    checked = found.checked
    for path, report, rows, needs in zip(files, checked.reports, checked.previews, found.costs, strict=True):
        lines = report_rows(report)
        lines += cost.cost_rows(needs, found.machine) if needs is not None else []
        lines += [row for finding in report.findings for row in finding_rows(finding)]
        print_report(lines)
        print()
        if wanted.preview:
            print_preview(shown_text(path.name), rows)
    if len(good := [each for each in found.costs if each is not None]) > 1:
        print_report([cost.total_row(good)])
    if lines := advice.advice_rows(found.changes, found.locked):
        if not wanted.auto_adjust:
            lines.append(Row("", "→ to write this to keepstep.toml: keepstep data check --auto-adjust FILE…"))
        print_report(lines)
    if wanted.auto_adjust:
        made = advice.adjust(found.place.home, found.changes, found.locked, yes=wanted.yes)
        print_report(advice.adjusted_rows(found.changes, made, found.locked))


def _print_json(found: Examined, made: Sequence[advice.Change] | None, wanted: Wanted) -> None:
    from cli.output.terminal import print_json

    values = as_json(found)
    for value, rows in zip(values, found.checked.previews, strict=True):
        if wanted.preview:
            value["preview"] = rows
        if made is not None:
            value["changed_keys"] = [change.key for change in made]
    print_json(values)


def as_json(found: Examined) -> list[dict[str, Any]]:
    """The results as JSON values, one for each file."""
    from cli.commands.data.report_text import report_json

    return [
        {
            "checked_at": time.time(),
            **report_json(report),
            "training": cost.cost_json(needs, found.machine) if needs is not None else None,
            "advice": advice.advice_json(found.changes, found.locked),
        }
        for report, needs in zip(found.checked.reports, found.costs, strict=True)
    ]


def _show_row(files: Sequence[Path], checked: Checked, wanted: Wanted) -> bool:
    """Show one row of each file; True if the daemon would train on all of them. Raises UserError if a file has no such
    row."""
    from cli.commands.data.preview_text import print_preview
    from cli.output.terminal import print_json

    for path, rows in zip(files, checked.previews, strict=True):
        if not rows:
            raise UserError(
                f"{shown_text(path.name)} has no row {wanted.row}",
                "rows count from 1, without headers and blank lines; `keepstep data check` says how many there are",
            )
    if wanted.json:
        named = zip(files, checked.previews, strict=True)
        print_json([{"file": shown_text(path.name), "preview": rows} for path, rows in named])
    else:
        for path, rows in zip(files, checked.previews, strict=True):
            print_preview(shown_text(path.name), rows)
    return all(row.verdict != "rejected" for rows in checked.previews for row in rows)
