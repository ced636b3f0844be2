"""A data file to tokens and a plan.

Chunks        records of the file, whatever it is packed in
Look          each chunk, here or by a child: rows, what is wrong with them, tokens
Examination   every row in order: whether it is learned, and what is found in the file as a whole
TokenWriter   the tokens of those that are, kept for the next time
Batches       the plan
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from events.settings import JobSettings, Plan
from events.values import JobId
from gpu.artifacts.manifest import describe
from gpu.data.encode.rows import Encoder
from gpu.data.examine import record
from gpu.data.examine.examination import Examination, FileFacts, Known
from gpu.data.examine.report import Finding, Report
from gpu.data.format.problems import tolerated
from gpu.data.plan.batches import Batches
from gpu.data.plan.cache import Kept, TokenCache, cache_name
from gpu.data.plan.chunk import Chunks, Look, Looked, LookThrough
from gpu.data.plan.held_out import held_out
from gpu.data.plan.lines import source_of
from gpu.data.plan.replay import replayed
from gpu.data.plan.store import Counter, Tokens, TokenWriter
from gpu.data.read.rows import first_format
from gpu.data.read.source import container_of
from gpu.errors import DataChanged, RowRejected, YieldRequested
from gpu.ipc.worker_channel import Heartbeats, WorkerChannel
from gpu.model.limits import UNLIMITED, ModelLimits
from journal.failpoints import failpoint

PARALLEL_FROM_BYTES = 8 << 20
"""A smaller file is encoded by the preparing process itself, in less time than encoders need until they can begin."""

NOTHING_EVALUATED = Finding(
    name="nothing_evaluated",
    severity="warn",
    count=0,
    share=0.0,
    message="no row of the validation set can be evaluated: it is empty, or all of them are bad or too long",
    advice="`keepstep data check` on the set itself says what is wrong with it.",
)

StartEncoders = Callable[[str | None], AbstractContextManager[LookThrough]]
"""Encoders for a file whose rows have the format that is named."""


@dataclass(frozen=True)
class Preparation:
    """What a file is prepared with."""

    home: Path
    tokenizer: Any
    tokenizer_sha256: str
    cache: TokenCache
    limits: ModelLimits = UNLIMITED
    """What the model takes."""
    encoders: StartEncoders | None = None
    """For large files; None: there are none."""
    records: bool = True
    """Whether report, skipped rows and what the rows say are written down in the home."""


@dataclass(frozen=True)
class PreparedJob:
    """A job that can be trained."""

    job: JobId
    settings: JobSettings
    tokens: Tokens
    batches: Batches
    plan: Plan
    validation: Tokens | None = None
    """The rows that it is evaluated on; None: there are none."""

    def lines_of(self, rows: Sequence[int]) -> tuple[tuple[int, ...], dict[JobId, tuple[int, ...]]]:
        """The lines of its file that these rows are of; and those of earlier files, from which some were mixed in."""
        own: set[int] = set()
        earlier: dict[JobId, set[int]] = {}
        for row in rows:
            source, line = source_of(self.tokens.line(row))
            (own if source == 0 else earlier.setdefault(self.settings.sources.replay[source - 1], set())).add(line)
        return tuple(sorted(own)), {job: tuple(sorted(lines)) for job, lines in sorted(earlier.items())}


def prepare(
    path: Path,
    job: JobId,
    name: str,
    settings: JobSettings,
    how: Preparation,
    channel: WorkerChannel,
    heartbeats: Heartbeats,
) -> PreparedJob:
    """Read, check and tokenise the file at `path`, which a person called `name`, or find what came of it before.

    Raises RowRejected, DataChanged, StorageFailed, EncoderLost, and YieldRequested between two chunks.
    """
    lines = 1

    def count(chunk: bytes) -> None:
        nonlocal lines
        lines += chunk.count(b"\n")
        _pause(channel)
        heartbeats.beat("prepare", 0, lines)

    def watch(_: bytes) -> None:
        _pause(channel)
        heartbeats.beat("prepare", lines, lines)

    def look(rows: int) -> None:
        _pause(channel)
        heartbeats.beat("prepare", rows, max(rows, lines))  # a file that is packed has more rows than lines

    check_bytes(path, job, count)
    kept = encoded(path, job, settings, how, name=name, look=look, watch=watch)
    batches = planned(kept, settings)
    return PreparedJob(job, settings, kept.tokens, batches, _plan(kept, batches), kept.held_out)


def encoded(
    path: Path,
    job: JobId,
    settings: JobSettings,
    how: Preparation,
    *,
    name: str = "",
    look: Callable[[int], None] = lambda _: None,
    watch: Callable[[bytes], None] = lambda _: None,
) -> Kept:
    """The tokens of the file at `path`, from the cache if they are there, else made; `look` hears how far that is.

    Raises RowRejected, DataChanged, StorageFailed, EncoderLost, OSError, and what `look` and `watch` raise.
    """
    key = cache_name(job, how.tokenizer_sha256, settings, how.limits)
    if (kept := how.cache.find(key, watch)) is not None:
        return kept

    def fill(trained: TokenWriter, evaluated: TokenWriter) -> Report:
        reports = how.home / "reports"
        validation = record.kept_validation(how.home, settings.sources.validation_sha256)
        known_set = record.validation_rows(validation, settings.data)
        earlier = record.earlier_rows(reports, job) if how.records else ()
        known = Known(known_set.content, earlier, known_set.problems)
        kind = container_of(path, plain_text=settings.data.format == "plain_text")
        file = FileFacts(name or path.name, job, path.stat().st_size, kind, None)
        with _recorded(reports, job, how) as recorder:
            put_aside = recorder.put_aside if recorder is not None else lambda _: None
            examination = Examination(settings, known, put_aside, how.limits)
            report = examine_file(path, file, settings, how, examination, trained, look)
            if report.refusal is None:
                encoder = Encoder(how.tokenizer, settings.data, how.limits)
                received = partial(look, examination.rows)
                for looked in held_out(path, validation, settings, known.validation, encoder, received):
                    evaluated.append(looked)
                    received()
                if validation is not None and settings.evaluation.rows and not evaluated.pieces:
                    report = replace(report, findings=(*report.findings, NOTHING_EVALUATED))
            if recorder is not None:
                recorder.finish(report, examination.content)
        if report.refusal is not None:
            raise rejection(report.refusal)
        return report

    return how.cache.make(key, job, how.tokenizer_sha256, fill, watch)


def examine_file(
    path: Path,
    file: FileFacts,
    settings: JobSettings,
    how: Preparation,
    examination: Examination,
    to: Counter,
    look: Callable[[int], None] = lambda _: None,
) -> Report:
    """What is found in the file at `path`; the tokens of what is to be learned go to `to`.

    Raises StorageFailed, EncoderLost, OSError, and what `look` raises.
    """
    form = first_format(path, settings.data, tolerated(settings.checks.rows))
    encoder = Encoder(how.tokenizer, settings.data, how.limits)
    for warning in encoder.warnings():
        examination.warn(warning)
    chunks = Chunks(path, settings)
    with _looking(path, form, encoder, settings, how) as look_through:
        for looked in look_through(chunks):
            to.append(looked.without(_left_out(looked, examination)))
            look(examination.rows)
    if chunks.problem is not None:
        examination.see_file(chunks.problem)
    own = to.pieces
    earlier = how.home / "data"
    for looked in replayed(
        earlier, file.sha256, settings, own, examination.validation, encoder, lambda: look(examination.rows)
    ):
        to.append(looked)
    return examination.report(
        file._replace(rows_are=form),
        trained=own,
        replayed=to.pieces - own,
        tokens=to.tokens,
        trained_tokens=to.trained_tokens,
    )


def _left_out(looked: Looked, examination: Examination) -> list[int]:
    """The rows of a chunk, by their places in it, that became something and are not to be learned after all."""
    outcomes = enumerate(looked.outcomes())
    return [place for place, (outcome, pieces) in outcomes if not examination.see(outcome) and pieces]


def rejection(finding: Finding) -> RowRejected:
    """What a file is refused for, in the words that a person reads."""
    message, line = finding.message, None
    if finding.places:
        first = finding.places[0]
        line = first.line
        column = f", column {first.column}" if first.column else ""
        message = f"Line {line}{column}: {first.what}" + (f": {first.seen}" if first.seen else "")
        if finding.count > 1:
            message += f" (and so in {finding.count - 1:,} more)"
    return RowRejected(finding.name, line, f"{message}\n{finding.advice}" if finding.advice else message)


def planned(kept: Kept, settings: JobSettings) -> Batches:
    """The plan for what was encoded."""
    manifest = kept.manifest
    lengths = kept.tokens.lengths()
    return Batches.planned(manifest.data_sha256, manifest.tokenizer_sha256, manifest.rows_sha256, lengths, settings)


@contextmanager
def _looking(
    path: Path, form: str | None, encoder: Encoder, settings: JobSettings, how: Preparation
) -> Iterator[LookThrough]:
    """Whoever reads and encodes this file."""
    if how.encoders is not None and path.stat().st_size >= PARALLEL_FROM_BYTES:
        with how.encoders(form) as look_through:
            yield look_through
        return
    look = Look(encoder, settings, form)
    yield lambda chunks: map(look, chunks)


@contextmanager
def _recorded(reports: Path, job: JobId, how: Preparation) -> Iterator[record.Writer | None]:
    if not how.records:
        yield None
        return
    with record.writing(reports, job) as writer:
        yield writer


def _plan(kept: Kept, batches: Batches) -> Plan:
    report = kept.manifest.report
    return Plan(
        rows=report.trained + report.replayed,
        replayed_rows=report.replayed,
        tokens=report.tokens,
        trained_tokens=report.trained_tokens,
        truncated_rows=report.truncated_rows,
        dropped_rows=report.dropped_rows,
        split_rows=report.split_rows,
        skipped_rows=report.bad_rows,
        held_out_rows=report.held_out_rows,
        warnings=tuple(finding.name for finding in report.findings),
        epochs=batches.epochs,
        steps_per_epoch=batches.steps_per_epoch,
        steps_total=batches.steps_total,
        padding_share=batches.padding_share,
        tokenizer_sha256=kept.manifest.tokenizer_sha256,
        batches_sha256=batches.sha256,
    )


def check_bytes(path: Path, job: JobId, watch: Callable[[bytes], None] = lambda _: None) -> None:
    """Raises DataChanged if the file at `path` is not the one that was accepted; `watch` sees each chunk of it."""
    try:
        found = describe(path, watch)
    except OSError as error:
        raise DataChanged(f"the data file {path} cannot be read: {error.strerror}") from error
    if found.sha256 != job:
        raise DataChanged(f"the data file {path} has changed since it was accepted: its SHA-256 is now {found.sha256}")


def _pause(channel: WorkerChannel) -> None:
    if channel.yield_requested():
        failpoint("yield_seen")
        raise YieldRequested("preparation can begin again at any time")
