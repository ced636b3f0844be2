"""A data file to tokens and a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from events.settings import DataSettings, JobSettings, Plan
from events.values import JobId
from gpu.crashpoints import reached
from gpu.data.batches import Batches
from gpu.data.cache import Kept, TokenCache, cache_name
from gpu.data.chunk import Chunk, Encode, EncodedChunk, chunks_of, encode_chunk, format_of
from gpu.data.store import Counts, Tokens, TokenWriter
from gpu.data.tokens import Encoder
from gpu.desk import Desk, Pulse
from gpu.errors import DataChanged, RowRejected, YieldAsked
from gpu.manifest import describe

PARALLEL_FROM_BYTES = 8 << 20
"""A smaller file is encoded by the preparing process itself, in less time than encoders need until they can begin."""

StartEncoders = Callable[[str], AbstractContextManager[Encode]]
"""Encoders for a file whose rows have the format that is named."""


@dataclass(frozen=True)
class Preparation:
    """What a file is prepared with."""

    tokenizer: Any
    tokenizer_sha256: str
    cache: TokenCache
    encoders: StartEncoders | None = None
    """For large files; None: there are none."""


@dataclass(frozen=True)
class PreparedJob:
    """A job that can be trained."""

    job: JobId
    settings: JobSettings
    tokens: Tokens
    batches: Batches
    plan: Plan


def prepare(path: Path, job: JobId, settings: JobSettings, how: Preparation, desk: Desk, pulse: Pulse) -> PreparedJob:
    """Read, check and tokenise the file at `path`, or find what came of it before.

    Raises RowRejected, DataChanged, StorageFailed, EncoderLost, and YieldAsked between two chunks.
    """
    lines = 1

    def count(chunk: bytes) -> None:
        nonlocal lines
        lines += chunk.count(b"\n")
        _pause(desk)
        pulse.beat("prepare", 0, lines)

    def watch(_: bytes) -> None:
        _pause(desk)
        pulse.beat("prepare", lines, lines)

    def look(counts: Counts) -> None:
        _pause(desk)
        pulse.beat("prepare", counts.rows, lines)

    check_bytes(path, job, count)
    kept = encoded(path, job, settings.data, how, look, watch)
    batches = planned(kept, settings)
    return PreparedJob(job, settings, kept.tokens, batches, _plan(kept, batches))


def encoded(
    path: Path,
    job: JobId,
    settings: DataSettings,
    how: Preparation,
    look: Callable[[Counts], None] = lambda _: None,
    watch: Callable[[bytes], None] = lambda _: None,
) -> Kept:
    """The tokens of the file at `path`, from the cache if they are there, else made; `look` hears how far that is.

    Raises RowRejected, StorageFailed, EncoderLost, OSError, and what `look` and `watch` raise.
    """
    name = cache_name(job, how.tokenizer_sha256, settings)
    if (kept := how.cache.find(name, watch)) is not None:
        return kept

    def fill(writer: TokenWriter) -> None:
        chosen = format_of(path, settings)
        with _encoders(path, chosen, settings, how) as encode:
            for chunk in encode(chunks_of(path)):
                if chunk.bad and settings.bad_rows == "refuse":
                    raise RowRejected(chunk.bad[0].problem, chunk.bad[0].line, chunk.bad[0].message)
                writer.append(chunk)
                look(writer.counts)
        _refuse_what_is_left(writer.counts, settings)

    return how.cache.make(name, job, how.tokenizer_sha256, fill, watch)


def planned(kept: Kept, settings: JobSettings) -> Batches:
    """The plan for what was encoded."""
    manifest = kept.manifest
    lengths = kept.tokens.lengths()
    return Batches.planned(manifest.data_sha256, manifest.tokenizer_sha256, manifest.rows_sha256, lengths, settings)


@contextmanager
def _encoders(path: Path, chosen: str, settings: DataSettings, how: Preparation) -> Iterator[Encode]:
    """Whoever encodes this file."""
    if how.encoders is not None and path.stat().st_size >= PARALLEL_FROM_BYTES:
        with how.encoders(chosen) as encode:
            yield encode
        return
    encoder = Encoder(how.tokenizer, settings.max_length)

    def here(chunks: Iterable[Chunk]) -> Iterator[EncodedChunk]:
        return map(partial(encode_chunk, chosen=chosen, settings=settings, encoder=encoder), chunks)

    yield here


def _refuse_what_is_left(counts: Counts, settings: DataSettings) -> None:
    """Raises RowRejected where too many rows were left out, or all."""
    share = counts.bad / max(1, counts.rows)
    if share > settings.bad_rows_max:
        raise RowRejected(
            "too_many_bad_rows",
            None,
            f"{counts.bad} of {counts.rows} rows cannot be learned from, more than [data] bad_rows_max = "
            f"{settings.bad_rows_max:g} allows. Correct them, then add the file again.",
        )
    if not counts.pieces:
        raise RowRejected(
            "no_trainable_tokens",
            None,
            f"Nothing is left to learn of {counts.rows} rows. Look at [data] in keepstep.toml.",
        )


def _plan(kept: Kept, batches: Batches) -> Plan:
    counts = kept.manifest.counts
    return Plan(
        rows=counts.pieces,
        tokens=counts.tokens,
        trained_tokens=counts.trained_tokens,
        truncated_rows=counts.truncated,
        dropped_rows=counts.dropped,
        split_rows=counts.split,
        skipped_rows=counts.bad,
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
        raise DataChanged(
            f"the data file {path} cannot be read: {error.strerror}. Bring it back, then `keepstep retry`."
        ) from error
    if found.sha256 != job:
        raise DataChanged(
            f"the data file {path} has changed since it was accepted: its SHA-256 is now {found.sha256}. "
            "Bring the original back, or add the changed file as a new one."
        )


def _pause(desk: Desk) -> None:
    if desk.yield_asked():
        reached("yield_seen")
        raise YieldAsked("preparation can begin again at any time")
