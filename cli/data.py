"""`keepstep data check`: what is in a file, and what the daemon would make of it, before any GPU time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import REFUSED, UserError
from cli.home import Home, find_home
from cli.journal import HomeOption, JsonOption
from cli.terminal import Row, shown_text

if TYPE_CHECKING:
    from events.settings import JobSettings, ModelSettings
    from gpu.data.report import Bucket, Finding, Report

app = typer.Typer(name="data", no_args_is_help=True)

BAR_CHARACTERS = 40
"""Of the longest bar of the histogram."""


@app.callback()
def data() -> None:
    """Look at data files."""


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="Data files; they are only read.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Whose tokenizer counts, and whose template; else the home's.")
    ] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Say what is in data files and what is wrong with them, by the settings of the home, as the daemon would."""
    if not check_files(files, model, home, json=json):
        raise typer.Exit(REFUSED)


@app.command()
def report(
    file: Annotated[str, typer.Argument(help="Its name, or the first digits of its job's id.")],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Show what was found in a file when it was prepared."""
    show_report(find_home(home, reads_only=True), file, json=json)


def show_report(home: Home, wanted: str, *, json: bool) -> None:
    """`keepstep data report`. Raises UserError if there is none."""
    import msgspec

    from cli.terminal import print_json
    from gpu.data.report import Report
    from journal.durable import read_file
    from projections.seal import UNREADABLE

    found: list[Report] = []
    for path in sorted(home.reports.glob("*.json")):
        try:
            one = msgspec.json.decode(read_file(path), type=Report)
        except UNREADABLE:
            continue  # of an earlier keepstep; the next preparation of that file writes it anew
        if shown_text(wanted) == one.file or (len(wanted) >= 6 and one.sha256.startswith(wanted)):
            found.append(one)
    if not found:
        advice = "`keepstep data check FILE` looks at any file"
        raise UserError(f"no file that was prepared is called {wanted!r}", advice)
    if json:
        print_json([msgspec.to_builtins(each) for each in found])
    else:
        for each in found:
            show(each)


def check_files(files: Sequence[Path], model: str | None, home_option: Path | None, *, json: bool) -> bool:
    """`keepstep data check`: whether all of them are good. Raises UserError."""
    import msgspec

    from cli.modules import ask, refused
    from cli.plain_text import may_be_plain_text
    from cli.terminal import print_json
    from cli.trust import followed
    from cli.validation import validation_file
    from gpu.exchange import Check, Checked, Refusal

    for path in files:
        if not path.is_file():
            raise UserError(f"{path} {'is not a file' if path.exists() else 'does not exist'}; nothing was checked")
    home, settings = settings_for(model, home_option)
    validation = validation_file(home, settings)
    there = [followed(path.absolute()) for path in files]  # only `gpu.check` opens them, each once
    plain_text = [
        str(leads_to) for path, leads_to in zip(files, there, strict=True) if may_be_plain_text(settings, path.name)
    ]
    order = Check(
        home=str(home.root),
        files=tuple(map(str, there)),
        plain_text=tuple(plain_text),
        settings=settings,
        validation=None if validation is None else str(validation),
    )
    said = ask("gpu.check", order, otherwise="mend the installation, then try again")
    answer = msgspec.json.decode(said, type=Checked | Refusal)
    if isinstance(answer, Refusal):
        raise refused("the files could not be checked", answer, "name another model with --model")
    if json:
        print_json([msgspec.to_builtins(report) for report in answer.reports])
    else:
        for report in answer.reports:
            show(report)
    return all(report.verdict == "good" for report in answer.reports)


def settings_for(model: str | None, home_option: Path | None) -> tuple[Home, JobSettings]:
    """The home whose settings hold; outside of one those that a new one would have, for the model that is named."""
    from msgspec.structs import replace

    from cli.config import load_config
    from events.settings import JobSettings, ModelSettings

    try:
        home = find_home(home_option, reads_only=True)
    except UserError:
        if model is None or home_option is not None:
            raise
        return Home(Path.cwd()), JobSettings(model=_named(ModelSettings(path=model), model))
    settings = load_config(home.config).job
    if model is not None:
        settings = replace(settings, model=_named(settings.model, model))
    return home, settings


def _named(settings: ModelSettings, model: str) -> ModelSettings:
    """`settings` for the model that was named: a directory, a hub id, or NAME@REVISION. Raises UserError."""
    from msgspec.structs import replace

    from cli.pinning import pinned_model

    if Path(model).is_dir():
        return replace(settings, path=str(Path(model).absolute()), revision="")
    if "@" not in model:
        return settings if model == settings.path else replace(settings, path=model, revision="")
    named = pinned_model(model)
    return replace(settings, path=named.path, revision=named.revision)


# -- how a report looks ---------------------------------------------------------------------------------------------


def show(report: Report) -> None:
    """A report, for a person."""
    from cli.terminal import print_report

    rows_are = f" of {report.rows_are}" if report.rows_are else ""
    rows = [
        Row("file", f"{report.file}  ({report.kind}{rows_are}, {report.size_bytes / 1e6:.2f} MB)", "bold"),
        Row("verdict", report.verdict, "green" if report.verdict == "good" else "bold red"),
        Row("rows", _of_rows(report)),
    ]
    share = report.trained_tokens / report.tokens if report.tokens else 0.0
    longest = f"the longest row has {report.longest_tokens:,}"
    every = report.tokens + report.cut_tokens
    cut = (
        f"; {report.cut_tokens:,} are left out of too long rows ({report.cut_tokens / every:.1%})"
        if report.cut_tokens
        else ""
    )
    rows.append(Row("tokens", f"{report.tokens:,}, {share:.0%} of them learned; {longest}{cut}"))
    rows += [row for finding in report.findings for row in _of_finding(finding)]
    rows += _histogram(report.lengths)
    print_report(rows)
    print()


def _of_rows(report: Report) -> str:
    left_out = {
        "bad": report.bad_rows,
        "too long": report.dropped_rows,
        "held out": report.held_out_rows,
    }
    cut = {"cut": report.truncated_rows, "split": report.split_rows}
    said = [f"{report.rows:,}"]
    said += [f"{count:,} {why}" for why, count in (left_out | cut).items() if count]
    return ", ".join(said)


def _of_finding(finding: Finding) -> list[Row]:
    styles = {"refuse": "red", "skip": "yellow", "warn": "yellow"}
    count = (
        f" ({finding.count:,} {'row' if finding.count == 1 else 'rows'}, {finding.share:.1%})" if finding.count else ""
    )
    rows: list[Row] = [Row(finding.severity, f"{finding.name}: {finding.message}{count}", styles[finding.severity])]
    for place in finding.places:
        column = f", column {place.column}" if place.column else ""
        what = f"{place.what}: " if place.what != finding.message and place.seen else place.what * (not place.seen)
        rows.append(Row("", f"  line {place.line}{column}  {what}{place.seen}"))
    if finding.count > len(finding.places) > 0:
        rows.append(Row("", f"  … and {finding.count - len(finding.places):,} more"))
    if finding.advice:
        rows.append(Row("", f"  → {finding.advice}"))
    return rows


def _histogram(buckets: Sequence[Bucket]) -> list[Row]:
    """Rows by their length, one line for each bucket."""
    most = max((bucket.rows for bucket in buckets), default=0)
    lines: list[Row] = []
    before = 0
    for bucket in buckets:
        bar = "█" * -(-BAR_CHARACTERS * bucket.rows // most)
        lines.append(
            Row("lengths" if not lines else "", f"{before + 1:>7,} – {bucket.up_to:<7,} {bucket.rows:>9,}  {bar}")
        )
        before = bucket.up_to
    return lines
