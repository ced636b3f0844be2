"""The errors of the worker, named by their cause."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from events.messages import BatchSuspect, Phase
from events.values import CheckpointId
from gpu.runtime.driver import names_memory

NOT_DETERMINISTIC = "does not have a deterministic implementation"
"""https://docs.pytorch.org/docs/stable/generated/torch.use_deterministic_algorithms.html."""


class WorkerError(Exception):
    """Base of all errors that `gpu` defines."""


class RowRejected(WorkerError):
    """A data file cannot be trained on.

    Data: `problem`, a name that scripts can match; `line`, from 1, or None if the file as a whole is the problem.
    """

    def __init__(self, problem: str, line: int | None, message: str) -> None:
        self.problem = problem
        self.line = line
        self.message = message
        super().__init__(message)


class DataChanged(WorkerError):
    """The data file of a job is missing, or its SHA-256 is not that of the job."""


class EncoderLost(WorkerError):
    """A process that encodes rows ended unexpectedly. The rows are encoded again by the next attempt."""


class ModelUnusable(WorkerError):
    """The model or its tokenizer cannot be loaded, or cannot be trained by the method of the settings."""


class ArtifactBroken(WorkerError):
    """A checkpoint, version or backup is not what was written. Data: `problem`."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(problem)


class CheckpointBroken(ArtifactBroken):
    """A checkpoint is not what its manifest says. Data: `checkpoint`, `problem`."""

    def __init__(self, checkpoint: CheckpointId, problem: str) -> None:
        super().__init__(problem)
        self.checkpoint = checkpoint

    def __str__(self) -> str:
        return f"{self.checkpoint}: {self.problem}"


class CheckpointForeign(WorkerError):
    """A checkpoint is intact, but belongs to another model, tokenizer or method than the settings name.

    Data: `checkpoint`, `differences`.
    """

    def __init__(self, checkpoint: CheckpointId, differences: Sequence[str]) -> None:
        self.checkpoint = checkpoint
        self.differences = tuple(differences)
        super().__init__(
            f"checkpoint {checkpoint} is intact, but it does not fit: {'; '.join(differences)}. "
            "Restore keepstep.toml and the model, or start a new home (`keepstep init`)."
        )


class PlanChanged(WorkerError):
    """The batch plan of a trained job has changed, so its steps cannot run again."""


class MergeRefused(WorkerError):
    """The trained weights cannot be merged into these weights, or the result is wrong."""


class PreflightFailed(WorkerError):
    """There is too little disk space or memory to begin."""


class PhaseFailed(WorkerError):
    """A phase on which no training depends failed in a way that this process does not survive. Data: `cause`."""

    phase: ClassVar[Phase]
    where: ClassVar[str]
    """The same in words."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause
        super().__init__(f"{self.where}: {' '.join(str(cause).split()) or type(cause).__name__}")


class EvaluationFailed(PhaseFailed):
    """An evaluation failed."""

    phase, where = "evaluate", "in an evaluation"


class SamplingFailed(PhaseFailed):
    """Samples failed."""

    phase, where = "sample", "while samples were generated"


class CorrectionFailed(PhaseFailed):
    """A round of self-correction failed."""

    phase, where = "self_correct", "in a round of self-correction"


class StorageFailed(WorkerError):
    """A directory could not be written. Data: `path`, `errno` (None if the system gave no number)."""

    def __init__(self, path: Path, error: OSError) -> None:
        self.path = path
        self.errno = error.errno
        super().__init__(
            f"cannot write {path}: {error.strerror or error}. Nothing committed is lost; "
            "free some disk space or repair the disk, and the job continues from its last checkpoint."
        )


class YieldRequested(WorkerError):
    """The daemon asked the worker to stop. Raised where nothing is lost."""


class ProtocolViolation(WorkerError):
    """The other end of the socket sent something that is not a message. Data: `line`, its first bytes."""

    def __init__(self, line: bytes, reason: str) -> None:
        self.line = line[:80]
        super().__init__(f"not a message: {self.line!r} ({reason}). The other end is broken or of another version.")


class TrainingDiverged(WorkerError):
    """Loss, gradient or weights are not finite. The last checkpoint is good. Data: `global_step`."""

    def __init__(self, global_step: int, what: str) -> None:
        self.global_step = global_step
        super().__init__(
            f"training diverged at step {global_step}: {what}. All checkpoints before are good. "
            "Lower [training] learning_rate, or look for unusual rows in the file."
        )


class SuspectBatch(TrainingDiverged):
    """A batch diverged, before the optimizer changed a weight. Data: `fact`, the report for the daemon."""

    def __init__(self, fact: BatchSuspect) -> None:
        self.fact = fact
        super().__init__(fact.global_step, fact.message)


class MicrobatchTooLarge(WorkerError):
    """A step did not fit into memory, and this process cannot run it again.

    Data: `global_step`, `step`, `sequences` (computed together), `reason`.
    """

    def __init__(self, global_step: int, step: int, sequences: int, reason: str) -> None:
        self.global_step = global_step
        self.step = step
        self.sequences = sequences
        self.reason = reason
        super().__init__(
            f"step {global_step} does not fit into memory with {sequences} sequences at once: {reason}. "
            "Check whether another process uses the memory."
        )


def is_out_of_memory(error: BaseException) -> bool:
    """True if `error` means that memory ran out.

    Torch has a type for most such errors of a GPU. Others are RuntimeErrors that name the allocator or the library.
    """
    named = type(error).__name__ in {"MemoryError", "OutOfMemoryError"}
    return named or (isinstance(error, RuntimeError) and names_memory(str(error)))


def nondeterministic_operation(error: BaseException) -> str | None:
    """Return the operation that `error` says has no deterministic implementation; None for other errors.

    Torch raises a plain RuntimeError for it.
    """
    text = str(error)
    return text.partition(" ")[0] if isinstance(error, RuntimeError) and NOT_DETERMINISTIC in text else None


def is_disk_full(error: BaseException | None) -> bool:
    """True if `error` or one of its causes is a full disk or an exhausted quota."""
    while error is not None:
        if getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT}:
            return True
        error = error.__cause__ or error.__context__
    return False
