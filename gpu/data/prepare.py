"""A data file to tokens and a plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from events.settings import JobSettings, Plan
from events.values import JobId
from gpu.crashpoints import reached
from gpu.data.batches import Batches
from gpu.data.encode import Encoder
from gpu.data.example import Problem
from gpu.data.rows import good_rows
from gpu.data.tokens import Tokens
from gpu.desk import Desk, Pulse
from gpu.errors import DataChanged, RowRejected, YieldAsked
from gpu.manifest import describe


@dataclass(frozen=True)
class PreparedJob:
    """A job that can be trained."""

    job: JobId
    settings: JobSettings
    tokens: Tokens
    batches: Batches
    plan: Plan


def prepare(
    path: Path, job: JobId, settings: JobSettings, tokenizer: Any, tokenizer_sha256: str, desk: Desk, pulse: Pulse
) -> PreparedJob:
    """Read, check and tokenise the file at `path`.

    Raises RowRejected, DataChanged, and YieldAsked between two rows.
    """
    lines = _check_bytes(path, job, desk, pulse)
    encoder, tokens = Encoder(tokenizer, settings.data), Tokens()
    for row in good_rows(path, settings.data):
        encoding = encoder.encode(row)
        if encoding.problem is not None:
            raise _rejection(encoding.problem)
        for piece in encoding.pieces:
            tokens.append(piece)
        reached("row_prepared")
        _pause(desk)
        pulse.beat("prepare", len(tokens), lines)
    batches = Batches.planned(job, tokenizer_sha256, len(tokens), settings)
    plan = Plan(
        rows=len(tokens),
        tokens=len(tokens.ids),
        trained_tokens=tokens.trained_tokens,
        truncated_rows=tokens.truncated_rows,
        epochs=batches.epochs,
        steps_per_epoch=batches.steps_per_epoch,
        steps_total=batches.steps_total,
        tokenizer_sha256=tokenizer_sha256,
        batches_sha256=batches.sha256,
    )
    return PreparedJob(job, settings, tokens, batches, plan)


def _rejection(problem: Problem) -> RowRejected:
    return RowRejected(problem.name, problem.line, problem.message)


def _check_bytes(path: Path, job: JobId, desk: Desk, pulse: Pulse) -> int:
    """The number of lines in the file, once its bytes are known to be those that were accepted."""
    lines = 1

    def watch(chunk: bytes) -> None:
        nonlocal lines
        lines += chunk.count(b"\n")
        _pause(desk)
        pulse.beat("prepare", 0, lines)

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
    return lines


def _pause(desk: Desk) -> None:
    if desk.yield_asked():
        reached("yield_seen")
        raise YieldAsked("preparation can begin again at any time")
