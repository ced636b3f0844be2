"""`keepstep data`: check data files as the daemon does, without a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands.arguments.resolve import Candidate, matching, resolve
from cli.commands.common import HomeOption, JsonOption, format_size
from cli.errors import REFUSED, UserError
from cli.home.paths import Home, find_home
from cli.output.terminal import ATTENTION, BAD, Row

if TYPE_CHECKING:
    from events.settings import JobSettings, ModelSettings
    from gpu.data.examine.report import Bucket, Finding, Report

app = typer.Typer(no_args_is_help=True)

BAR_CHARACTERS = 40
"""Length of the longest bar of the histogram."""


@app.callback()
def data() -> None:
    """Check data files before training, and show the reports."""


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="Data files; they are not changed.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Model whose tokenizer and template to use. Default: the home's.")
    ] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Check data files with the settings of the home, as the daemon does.

    Exit code 1 if the daemon would reject one of them.
    """
    if not check_files(files, model, home, json=json):
        raise typer.Exit(REFUSED)


@app.command()
def report(
    file: Annotated[str, typer.Argument(help="Name of the file, or first digits of its job's id.")],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Show the report of a file that the daemon prepared."""
    show_report(find_home(home, reads_only=True), file, json=json)


def show_report(home: Home, wanted: str, *, json: bool) -> None:
    """`keepstep data report`. Raises UserError if there is none."""
    import msgspec

    from cli.output.terminal import print_json
    from gpu.data.examine.report import Report
    from journal.durable import read_file
    from projections.checksum import UNREADABLE

    reports: list[Report] = []
    for path in sorted(home.reports.glob("*.json")):
        try:
            one = msgspec.json.decode(read_file(path), type=Report)
        except UNREADABLE:
            continue  # written by an older keepstep; preparing the file again rewrites it
        reports.append(one)
    candidates = [Candidate(one.sha256, one.file) for one in reports]
    named = matching(wanted, candidates)
    if len({each.name for each in named}) > 1:
        resolve(wanted, candidates, what="report", advice="its file, or more digits of its job's id")
    found = [one for one in reports if Candidate(one.sha256, one.file) in named]
    if not found:
        raise UserError(f"there is no report on {wanted!r}", "to check a file: keepstep data check FILE")
    if json:
        print_json([msgspec.to_builtins(each) for each in found])
    else:
        for each in found:
            print_data_report(each)


def check_files(files: Sequence[Path], model: str | None, home_option: Path | None, *, json: bool) -> bool:
    """`keepstep data check`: True if all files are good. Raises UserError."""
    import msgspec

    from cli.config.plain_text import may_be_plain_text
    from cli.config.validation_set import validation_file
    from cli.home.subprocesses import ask, refused
    from cli.home.trust import resolve_link
    from cli.output.terminal import print_json
    from gpu.ipc.protocol import Check, Checked, Refusal

    for path in files:
        if not path.is_file():
            raise UserError(f"{path} {'is not a file' if path.exists() else 'does not exist'}; nothing was checked")
    home, settings = settings_for(model, home_option)
    validation = validation_file(home, settings)
    there = [
        resolve_link(path.absolute()) for path in files
    ]  # only `gpu.data.processes.file_check` opens them, each once
    plain_text = [
        str(leads_to) for path, leads_to in zip(files, there, strict=True) if may_be_plain_text(settings, path.name)
    ]
    request = Check(
        home=str(home.root),
        files=tuple(map(str, there)),
        plain_text=tuple(plain_text),
        settings=settings,
        validation=None if validation is None else str(validation),
    )
    reply = ask("gpu.data.processes.file_check", request, otherwise="fix the installation, then try again")
    answer = msgspec.json.decode(reply, type=Checked | Refusal)
    if isinstance(answer, Refusal):
        raise refused("the files could not be checked", answer, "name another model with --model")
    if json:
        print_json([msgspec.to_builtins(report) for report in answer.reports])
    else:
        for report in answer.reports:
            print_data_report(report)
    return all(report.verdict == "good" for report in answer.reports)


def settings_for(model: str | None, home_option: Path | None) -> tuple[Home, JobSettings]:
    """The home and its settings; outside of a home the defaults, for the named model."""
    from msgspec.structs import replace

    from cli.config.schema import load_config
    from events.settings import JobSettings, ModelSettings

    try:
        home = find_home(home_option, reads_only=True)
    except UserError:
        if model is None or home_option is not None:
            raise
        return Home(Path.cwd()), JobSettings(model=_with_model(ModelSettings(path=model), model))
    settings = load_config(home.config).job
    if model is not None:
        settings = replace(settings, model=_with_model(settings.model, model))
    return home, settings


def _with_model(settings: ModelSettings, model: str) -> ModelSettings:
    """`settings` with another model: a directory, a hub id, or NAME@REVISION. Raises UserError."""
    from msgspec.structs import replace

    from cli.config.pinning import resolve_model

    if Path(model).is_dir():
        return replace(settings, path=str(Path(model).absolute()), revision="")
    if "@" not in model:
        return settings if model == settings.path else replace(settings, path=model, revision="")
    named = resolve_model(model)
    return replace(settings, path=named.path, revision=named.revision)


# -- how a report looks ---------------------------------------------------------------------------------------------


def print_data_report(report: Report) -> None:
    """Print a report as text."""
    from cli.output.terminal import print_report

    rows_are = f" of {report.rows_are}" if report.rows_are else ""
    rows = [
        Row("file", f"{report.file}  ({report.kind}{rows_are}, {format_size(report.size_bytes)})", "bold"),
        Row("verdict", report.verdict, "green" if report.verdict == "good" else "bold red"),
        Row("rows", _row_counts(report)),
    ]
    share = report.trained_tokens / report.tokens if report.tokens else 0.0
    longest = f"the longest row has {report.longest_tokens:,}"
    total = report.tokens + report.cut_tokens
    cut = (
        f"; {report.cut_tokens:,} ({report.cut_tokens / total:.1%}) are cut off from long rows"
        if report.cut_tokens
        else ""
    )
    rows.append(Row("tokens", f"{report.tokens:,}, {share:.0%} of them trained; {longest}{cut}"))
    rows += [row for finding in report.findings for row in _finding_rows(finding)]
    rows += _histogram(report.lengths)
    print_report(rows)
    print()


def _row_counts(report: Report) -> str:
    left_out = {
        "bad": report.bad_rows,
        "too long": report.dropped_rows,
        "held out": report.held_out_rows,
    }
    cut = {"cut": report.truncated_rows, "split": report.split_rows}
    counts = [f"{report.rows:,}"]
    counts += [f"{count:,} {why}" for why, count in (left_out | cut).items() if count]
    return ", ".join(counts)


def _finding_rows(finding: Finding) -> list[Row]:
    styles = {"refuse": BAD, "skip": ATTENTION, "warn": ATTENTION}
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
    """A bar for the rows of each range of lengths."""
    most = max((bucket.rows for bucket in buckets), default=0)
    lines: list[Row] = []
    before = 0
    for bucket in buckets:
        if not lines and not bucket.rows:
            before = bucket.up_to
            continue  # a short histogram starts at the shortest row
        bar = "█" * -(-BAR_CHARACTERS * bucket.rows // most)
        lines.append(
            Row("lengths" if not lines else "", f"{before + 1:>7,} – {bucket.up_to:<7,} {bucket.rows:>9,}  {bar}")
        )
        before = bucket.up_to
    return lines
