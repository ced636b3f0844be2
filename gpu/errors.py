"""What can go wrong in the worker, named by whose fault it is."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

from events.messages import BatchSuspect
from events.values import CheckpointId
from gpu.runtime.driver import names_memory

NOT_DETERMINISTIC = "does not have a deterministic implementation"
"""https://docs.pytorch.org/docs/stable/generated/torch.use_deterministic_algorithms.html."""


class WorkerError(Exception):
    """Base of everything that `gpu` raises by itself."""


class RowRejected(WorkerError):
    """The data file cannot be learned from.

    Data: `problem`, a name that scripts can match; `line`, from 1, or None where the file as a whole is the problem.
    """

    def __init__(self, problem: str, line: int | None, message: str) -> None:
        self.problem = problem
        self.line = line
        self.message = message
        super().__init__(message)


class DataChanged(WorkerError):
    """The data file of a job is missing, or no longer has the bytes that the job is named for."""


class EncoderLost(WorkerError):
    """A process that encodes rows ended by itself. What was encoded so far is given up."""


class ModelUnusable(WorkerError):
    """The model, or its tokenizer, cannot be loaded, or cannot be trained in the way that the settings ask for."""


class CheckpointBroken(WorkerError):
    """A checkpoint is not what its manifest says. Data: `checkpoint`, `problem`."""

    def __init__(self, checkpoint: CheckpointId, problem: str) -> None:
        self.checkpoint = checkpoint
        self.problem = problem
        super().__init__(f"{checkpoint}: {problem}")


class VersionManifestBroken(WorkerError):
    """What seals a directory is not what was written. Data: `problem`."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(problem)


class CheckpointForeign(WorkerError):
    """A checkpoint is whole, but belongs to another model, tokenizer or method than those that the settings name.

    Data: `checkpoint`, `differences`.
    """

    def __init__(self, checkpoint: CheckpointId, differences: Sequence[str]) -> None:
        self.checkpoint = checkpoint
        self.differences = tuple(differences)
        super().__init__(
            f"checkpoint {checkpoint} is whole, but it does not fit: {'; '.join(differences)}. "
            "Set keepstep.toml and the model back to what they were, or begin anew in a home of its own."
        )


class PlanChanged(WorkerError):
    """What was learned would not be learned in the same order again."""


class MergeRefused(WorkerError):
    """What was learned cannot be put into these weights, or not without harm."""


class PreflightFailed(WorkerError):
    """There is too little room or memory to begin."""


class EvaluationFailed(WorkerError):
    """Something went wrong in an evaluation, on which nothing that is learned depends. Data: `cause`."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause
        super().__init__(f"in an evaluation: {' '.join(str(cause).split()) or type(cause).__name__}")


class StorageFailed(WorkerError):
    """A checkpoint could not be written. Data: `path`, `errno` (None where the system gave no number)."""

    def __init__(self, path: Path, error: OSError) -> None:
        self.path = path
        self.errno = error.errno
        super().__init__(
            f"cannot write {path}: {error.strerror or error}. Nothing committed is lost; "
            "make room or repair the disk, and the job goes on from its last checkpoint."
        )


class YieldRequested(WorkerError):
    """The daemon wants the worker to stop; raised where stopping costs nothing."""


class ProtocolViolation(WorkerError):
    """The other end of the socket sent what is no message. Data: `line`, the first bytes of it."""

    def __init__(self, line: bytes, reason: str) -> None:
        self.line = line[:80]
        super().__init__(f"not a message: {self.line!r} ({reason}). The other end is broken or of another version.")


class TrainingDiverged(WorkerError):
    """The numbers ran away. Stopping keeps the last committed weights good. Data: `global_step`."""

    def __init__(self, global_step: int, what: str) -> None:
        self.global_step = global_step
        super().__init__(
            f"training diverged at step {global_step}: {what}. Everything committed before is good. "
            "Lower [training] learning_rate, or look for odd rows in the file."
        )


class SuspectBatch(TrainingDiverged):
    """The same, found before the optimizer touched anything. Data: `fact`, which is to be reported."""

    def __init__(self, fact: BatchSuspect) -> None:
        self.fact = fact
        super().__init__(fact.global_step, fact.message)


class MicrobatchTooLarge(WorkerError):
    """A step did not fit into memory, and cannot be run again by this process. Data: `global_step`, `step`, `sequences`
    (that were computed together), `reason`."""

    def __init__(self, global_step: int, step: int, sequences: int, reason: str) -> None:
        self.global_step = global_step
        self.step = step
        self.sequences = sequences
        self.reason = reason
        super().__init__(
            f"step {global_step} does not fit into memory with {sequences} sequences at once: {reason}. "
            "Look whether something else needs the memory."
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out. Torch has an error of its own for most of a GPU's memory only; else it
    is a RuntimeError that names the allocator or the library that got none."""
    named = type(error).__name__ in {"MemoryError", "OutOfMemoryError"}
    return named or (isinstance(error, RuntimeError) and names_memory(str(error)))


def nondeterministic_operation(error: BaseException) -> str | None:
    """Return torch's name of an operation that has no deterministic implementation on this device; None: `error` says
    something else. Torch raises a plain RuntimeError for it."""
    said = str(error)
    return said.partition(" ")[0] if isinstance(error, RuntimeError) and NOT_DETERMINISTIC in said else None


def is_disk_full(error: BaseException | None) -> bool:
    """Whether `error` says, or was raised because, there is no room on the disk, or no more of it for this user."""
    while error is not None:
        if getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT}:
            return True
        error = error.__cause__ or error.__context__
    return False
