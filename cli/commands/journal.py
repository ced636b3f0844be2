"""`keepstep journal …` and the program `journal …`: read, verify, replay and repair the journal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from cli.arguments.groups import CONTEXT, TailGroup
from cli.cancelled import cancelled_text
from cli.commands.common import HomeOption, JsonOption, count
from cli.errors import DAMAGED, STORAGE_FAILED, UserError, report_errors
from cli.home.paths import Home, find_home
from cli.output.terminal import print_json
from cli.output.times import local
from gpu.runtime.streams import prepare_streams, reader_is_gone

if TYPE_CHECKING:
    from journal import Finding, Line

app = typer.Typer(
    cls=TailGroup,
    help="Read, verify, replay and repair the journal.",
    context_settings=CONTEXT,
    add_completion=False,
    pretty_exceptions_enable=False,
)

TAIL_EVERY_S = 0.2
LOST_SHOWN = 8


@app.command()
def replay(home: HomeOption = None, json: JsonOption = False) -> None:
    """Rebuild the state and every view from the first record."""
    from cli.home.event_store import EventStore
    from cli.home.identity import daemon_is_alive
    from cli.status.report import health
    from projections.status import plain
    from projections.status_view import status_view

    found = find_home(home)
    began = time.perf_counter()
    with closing(EventStore.open(found, from_first_record=True)) as store:
        seconds = time.perf_counter() - began
        with store.exclusive():
            store.write_status()
            store.save_snapshot()
        position, verdict = store.journal.position, store.journal.verdict
        view = status_view(store.folded, seq=position.seq, crc=position.crc, heartbeat_at=0.0)
    state = health(view, alive=daemon_is_alive(found))
    if json:
        report = {
            "records": position.seq,
            "seconds": seconds,
            "verdict": verdict.value,
            "state": plain(view),
            "health": state,
        }
        print_json(report)
        return
    typer.echo(f"records   {position.seq} in {count(position.segment, 'segment')}")
    typer.echo(f"time      {seconds:.3f} s ({position.seq / seconds:,.0f} records/s)")
    typer.echo(f"verdict   {verdict.value}")
    typer.echo(f"state     {state}")
    typer.echo(f"          step {view.global_step} is committed; waiting jobs: {view.queue.waiting}")
    typer.echo(
        f"          {view.counts.trained} trained, {view.counts.rejected} rejected, {view.counts.skipped} skipped"
    )
    typer.echo(f"rebuilt   {found.relative(found.status)}, {found.relative(found.snapshot)}")


@app.command()
def verify(home: HomeOption = None, json: JsonOption = False) -> None:
    """Check every byte of the journal; change nothing."""
    from cli.home.snapshot_reader import witnesses
    from journal import Verdict, survey

    found = find_home(home, reads_only=True)
    result = survey(found.journal, witnesses(found), storage=found.storage)
    finding, known = result.finding, witnesses(found)
    if json:
        report = {
            "verdict": result.verdict.value,
            "case": finding.case.name,
            "meaning": finding.case.meaning,
            "records": result.records,
            "segments": len(result.segments),
            "position": result.position._asdict(),
            "file": str(finding.path),
            "offset": finding.offset,
            "first_lost": finding.seq if finding.last_seq >= finding.seq else None,
            "last_lost": finding.last_seq if finding.last_seq >= finding.seq else None,
            "witnesses": [witness._asdict() for witness in known],
        }
        print_json(report)
    else:
        segments = count(len(result.segments), "segment")
        typer.echo(f"records   {result.records} in {segments}; the last one is {result.position.seq}")
        typer.echo(f"verdict   {result.verdict.value}: {finding}")
        if result.verdict is Verdict.DAMAGED:
            typer.echo(f"lost      {_describe_loss(found, result.id, finding)}")
        for witness in known:
            typer.echo(f"witness   {witness.name} names record {witness.seq} (crc {witness.crc})")
    if result.verdict in {Verdict.DAMAGED, Verdict.UNREADABLE}:
        raise typer.Exit(DAMAGED if result.verdict is Verdict.DAMAGED else STORAGE_FAILED)


@app.command()
def tail(
    home: HomeOption = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Also print new records; Ctrl-C ends.")] = False,
    number: Annotated[int, typer.Option("-n", min=0, help="Number of records.")] = 10,
    json: JsonOption = False,
) -> None:
    """Show the last records."""
    from collections import deque

    found = find_home(home, reads_only=True)
    for line in deque(_records(found), maxlen=number):
        _show(line, json=json)
    if follow:
        follow_records(found, json=json)


def follow_records(home: Home, *, json: bool) -> None:
    """Print new records until Ctrl-C, or until the reader of the output is gone."""
    from journal import follow, last_position, read_line

    position = last_position(home.journal)
    try:
        while not reader_is_gone():
            records, position = follow(home.journal, read_line, position)
            for record in records:
                _show(record, json=json)
            time.sleep(TAIL_EVERY_S)
    except KeyboardInterrupt:
        return


@app.command()
def show(
    seq: Annotated[int | None, typer.Argument(help="Number of the record.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="Records of this kind.")] = None,
    job: Annotated[str | None, typer.Option("--job", help="Records of the job whose id starts with this.")] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Show one record, or all of a kind or a job."""
    if seq is None and kind is None and job is None:
        raise UserError("no record was asked for", "name a record's number, --kind or --job")
    shown = 0
    for record in _records(find_home(home, reads_only=True)):
        if (
            (seq is None or record.seq == seq)
            and (kind is None or _event(record).get("kind") == kind)
            and (job is None or str(_event(record).get("job", "")).startswith(job))
        ):
            _show(record, json=json)
            shown += 1
    if not shown:
        raise UserError("no record matches", "`keepstep journal tail -n 1000` prints the last ones")


@app.command()
def repair(
    home: HomeOption = None,
    accept_loss: Annotated[bool, typer.Option("--accept-loss", help="Drop the damaged records for good.")] = False,
) -> None:
    """Drop damaged records, so that work can continue.

    The damaged bytes stay in journal/torn/, and the loss is journaled.
    """
    from cli.commands.journal_repair import repair_journal

    repair_journal(find_home(home), accept_loss=accept_loss)


def _describe_loss(home: Home, journal_id: str, finding: Finding) -> str:
    """The lost records that are still readable, for the decision whether to drop them."""
    from journal import lines
    from journal.format import is_whole, seed_of

    seed = seed_of(journal_id)
    whole = (line.record for line in lines(home.journal) if line.record and is_whole(line.data, seed))
    readable = [(record.seq, _event(record).get("kind")) for record in whole if record.seq >= finding.seq]
    count = finding.last_seq - finding.seq + 1
    if not readable:
        return f"{count} records; none of them is readable"
    shown = ", ".join(f"{seq} {kind}" for seq, kind in readable[:LOST_SHOWN])
    more = f", and {len(readable) - LOST_SHOWN} more" if len(readable) > LOST_SHOWN else ""
    return f"{count} records. Readable, but after an unreadable one: {shown}{more}"


def _records(home: Home) -> Iterator[Line]:
    from journal import lines

    return (line.record for line in lines(home.journal) if line.record is not None)


def _event(record: Line) -> dict[str, Any]:
    try:
        event: dict[str, Any] = msgspec.json.decode(record.event)
    except (msgspec.MsgspecError, UnicodeError):
        return {"kind": "(unreadable)", "bytes": record.event.decode(errors="backslashreplace")}
    return event


def _show(record: Line, *, json: bool) -> None:
    event = _event(record)
    if json:
        typer.echo(msgspec.json.encode({"seq": record.seq, "at": record.at, "event": event}).decode())
        return
    fields = "  ".join(f"{key}={_short(value)}" for key, value in event.items() if key not in {"kind", "v"})
    typer.echo(f"{record.seq:>7}  {local(record.at)}  {event.get('kind')}  {fields}")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text[:12]
    return text


def main() -> None:
    """The entry point `journal`."""
    with report_errors(cancelled_text(["journal", *sys.argv[1:]])):
        prepare_streams()
        app(prog_name="journal")
