"""Prepare a data file for training: tokens and a batch plan.

Chunks        the records of the file, whatever container it is in
ChunkEncoder  parses and encodes each chunk, here or in an encoder process
Examination   decides for each row, in order, whether it is trained; examines the file as a whole
TokenWriter   keeps the tokens of the trained rows for the next time
Batches       the batch plan
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
from gpu.data.encode.encoder import Encoder
from gpu.data.examine import report_files
from gpu.data.examine.examination import Examination, FileFacts, KnownRows
from gpu.data.examine.report import Finding, Report
from gpu.data.format.rows import find_format
from gpu.data.plan.batches import Batches
from gpu.data.plan.cache import CachedTokens, TokenCache, cache_name
from gpu.data.plan.chunk import ChunkEncoder, Chunks, EncodeChunks, EncodedChunk
from gpu.data.plan.held_out import read_validation_set, select_evaluated, validation_path
from gpu.data.plan.lines import source_of
from gpu.data.plan.preview import Preview
from gpu.data.plan.replay import select_replayed
from gpu.data.plan.store import TokenCounter, Tokens, TokenWriter
from gpu.data.problems import tolerated_problems
from gpu.data.read.source import describe_container
from gpu.errors import DataChanged, RowRejected, YieldRequested
from gpu.ipc.worker_channel import Heartbeats, WorkerChannel
from gpu.model.limits import UNLIMITED, ModelLimits
from journal.failpoints import failpoint

PARALLEL_FROM_BYTES = 8 << 20
"""A smaller file is encoded by this process, in less time than encoder processes need to start."""

NOTHING_EVALUATED = Finding(
    name="nothing_evaluated",
    severity="warn",
    count=0,
    share=0.0,
    message="no row of the validation set can be evaluated: it is empty, or all rows are bad or too long",
    advice="`keepstep data check` on the validation set reports what is wrong with it.",
)

StartEncoders = Callable[[str | None], AbstractContextManager[EncodeChunks]]
"""Starts encoder processes for a file whose rows have this format."""


@dataclass(frozen=True)
class PreparationContext:
    """The tokenizer, cache and limits that every preparation with one model and home uses."""

    home: Path
    tokenizer: Any
    tokenizer_sha256: str
    cache: TokenCache
    limits: ModelLimits = UNLIMITED
    """The sizes that limit rows and tokens of the model."""
    encoders: StartEncoders | None = None
    """Starts encoder processes for large files; None: this process encodes all files."""
    records: bool = True
    """True if report, skipped rows and row hashes are written into the home."""


@dataclass(frozen=True)
class PreparedJob:
    """A job that can be trained."""

    job: JobId
    settings: JobSettings
    tokens: Tokens
    batches: Batches
    plan: Plan
    validation: Tokens | None = None
    """The rows that the job is evaluated on; None if there are none."""

    def lines_of(self, rows: Sequence[int]) -> tuple[tuple[int, ...], dict[JobId, tuple[int, ...]]]:
        """Return the lines of these rows in the job's own file, and by job in the earlier files that were mixed in."""
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
    context: PreparationContext,
    channel: WorkerChannel,
    heartbeats: Heartbeats,
) -> PreparedJob:
    """Read, check and encode the file at `path`, which the user called `name`, or find its tokens in the cache.

    Raises RowRejected, DataChanged, StorageFailed, EncoderLost, and YieldRequested between two chunks.
    """
    ended = lines = 0

    def on_file_chunk(chunk: bytes) -> None:
        nonlocal ended, lines
        ended += chunk.count(b"\n")
        lines = ended + (not chunk.endswith(b"\n"))  # the last line of a file may lack its end
        _check_yield(channel)
        heartbeats.beat("prepare", 0, lines)

    def on_cache_chunk(_: bytes) -> None:
        _check_yield(channel)
        heartbeats.beat("prepare", lines, lines)

    def on_progress(rows: int) -> None:
        _check_yield(channel)
        heartbeats.beat("prepare", rows, max(rows, lines))  # a compressed file has more rows than lines

    check_bytes(path, job, on_file_chunk)
    cached = encode_file(path, job, settings, context, name=name, on_progress=on_progress, on_chunk=on_cache_chunk)
    batches = plan_batches(cached, settings)
    return PreparedJob(job, settings, cached.tokens, batches, _plan(cached, batches), cached.held_out)


def encode_file(
    path: Path,
    job: JobId,
    settings: JobSettings,
    context: PreparationContext,
    *,
    name: str = "",
    on_progress: Callable[[int], None] = lambda _: None,
    on_chunk: Callable[[bytes], None] = lambda _: None,
) -> CachedTokens:
    """Return the tokens of the file at `path`, from the cache if it has them.

    `on_progress` receives the number of rows so far, `on_chunk` each chunk of the cache that is verified. Raises
    RowRejected, DataChanged, StorageFailed, EncoderLost, OSError, and what `on_progress` and `on_chunk` raise.
    """
    key = cache_name(job, context.tokenizer_sha256, settings, context.limits)
    if (cached := context.cache.find(key, on_chunk)) is not None:
        return cached

    def fill(trained: TokenWriter, evaluated: TokenWriter) -> Report:
        reports = context.home / "reports"
        set_path = validation_path(context.home, settings.sources.validation_sha256)
        validation = read_validation_set(set_path, settings.data)
        earlier = report_files.read_earlier_rows(reports, job) if context.records else ()
        known = KnownRows(validation.content, earlier, validation.problems)
        kind = describe_container(path, plain_text=settings.data.format == "plain_text")
        file = FileFacts(name or path.name, job, path.stat().st_size, kind, None)
        with _open_report(reports, job, context) as writer:
            save_skipped = writer.save_skipped if writer is not None else lambda _: None
            examination = Examination(settings, known, save_skipped, context.limits)
            report = examine_file(path, file, settings, context, examination, trained, on_progress)
            if report.refusal is None:
                encoder = Encoder(context.tokenizer, settings.data, context.limits)
                on_rows = partial(on_progress, examination.rows)
                for chunk in select_evaluated(path, set_path, settings, known.validation, encoder, on_rows):
                    evaluated.append(chunk)
                    on_rows()
                if set_path is not None and settings.evaluation.rows and not evaluated.pieces:
                    report = replace(report, findings=(*report.findings, NOTHING_EVALUATED))
            if writer is not None:
                writer.finish(report, examination.content)
        if report.refusal is not None:
            raise rejection(report.refusal)
        return report

    return context.cache.make(key, job, context.tokenizer_sha256, fill, on_chunk)


def examine_file(
    path: Path,
    file: FileFacts,
    settings: JobSettings,
    context: PreparationContext,
    examination: Examination,
    to: TokenCounter,
    on_progress: Callable[[int], None] = lambda _: None,
    preview: Preview | None = None,
) -> Report:
    """Examine the file at `path`; append the tokens of the trained rows to `to`, and preview rows if wanted.

    Raises StorageFailed, EncoderLost, OSError, and what `on_progress` raises.
    """
    format_name = find_format(path, settings.data, tolerated_problems(settings.checks.rows))
    encoder = Encoder(context.tokenizer, settings.data, context.limits)
    for warning in encoder.warnings():
        examination.add_warning(warning)
    chunks = Chunks(path, settings)
    with _encoding(path, format_name, encoder, settings, context) as encode_chunks:
        for chunk in encode_chunks(chunks if preview is None else preview.watch(chunks)):
            held_out = untrained_rows(chunk, examination)
            to.append(chunk.without(held_out))
            if preview is not None:
                preview.add(chunk, held_out)
            on_progress(examination.rows)
    if chunks.problem is not None:
        examination.add_file_problem(chunks.problem)
    own = to.pieces
    data, on_rows = context.home / "data", lambda: on_progress(examination.rows)
    for chunk in select_replayed(data, file.sha256, settings, own, examination.validation, encoder, on_rows):
        to.append(chunk)
    return examination.report(
        file._replace(rows_are=format_name),
        trained=own,
        replayed=to.pieces - own,
        tokens=to.tokens,
        trained_tokens=to.trained_tokens,
    )


def untrained_rows(chunk: EncodedChunk, examination: Examination) -> list[int]:
    """Return the indices of the rows in a chunk that have pieces and are not trained."""
    results = enumerate(chunk.row_results())
    return [index for index, (result, pieces) in results if not examination.add(result) and pieces]


def rejection(finding: Finding) -> RowRejected:
    """Return the error for a finding that refuses the file."""
    message, line = finding.message, None
    if finding.places:
        first = finding.places[0]
        line, where = first.line, first.where
        message = f"{where[0].upper()}{where[1:]}: {first.what}" + (f": {first.seen}" if first.seen else "")
        if finding.count > 1:
            message += f" (and {finding.count - 1:,} more)"
    return RowRejected(finding.name, line, f"{message}\n{finding.advice}" if finding.advice else message)


def plan_batches(cached: CachedTokens, settings: JobSettings) -> Batches:
    """Return the batch plan for encoded rows."""
    manifest = cached.manifest
    lengths = cached.tokens.lengths()
    return Batches.planned(manifest.data_sha256, manifest.tokenizer_sha256, manifest.rows_sha256, lengths, settings)


@contextmanager
def _encoding(
    path: Path, format_name: str | None, encoder: Encoder, settings: JobSettings, context: PreparationContext
) -> Iterator[EncodeChunks]:
    """Choose between this process and encoder processes."""
    if context.encoders is not None and path.stat().st_size >= PARALLEL_FROM_BYTES:
        with context.encoders(format_name) as encode_chunks:
            yield encode_chunks
        return
    encode_chunk = ChunkEncoder(encoder, settings, format_name)
    yield lambda chunks: map(encode_chunk, chunks)


@contextmanager
def _open_report(reports: Path, job: JobId, context: PreparationContext) -> Iterator[report_files.ReportWriter | None]:
    if not context.records:
        yield None
        return
    with report_files.open_report(reports, job) as writer:
        yield writer


def _plan(cached: CachedTokens, batches: Batches) -> Plan:
    report = cached.manifest.report
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
        tokenizer_sha256=cached.manifest.tokenizer_sha256,
        batches_sha256=batches.sha256,
    )


def check_bytes(path: Path, job: JobId, on_chunk: Callable[[bytes], None] = lambda _: None) -> None:
    """Raise DataChanged if the file at `path` is not the accepted one. `on_chunk` receives each chunk of it."""
    try:
        found = describe(path, on_chunk)
    except OSError as error:
        raise DataChanged(f"the data file {path} cannot be read: {error.strerror}") from error
    if found.sha256 != job:
        raise DataChanged(f"the data file {path} has changed since it was accepted: its SHA-256 is now {found.sha256}")


def _check_yield(channel: WorkerChannel) -> None:
    """Raise YieldRequested if the daemon wants the worker to stop."""
    if channel.yield_requested():
        failpoint("yield_seen")
        raise YieldRequested("preparation can begin again at any time")
