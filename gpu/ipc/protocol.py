"""Requests to the modules of `gpu` that run as separate processes, and their answers. No torch: the shell imports this.

A request is one JSON argument; the answer, or a `Refusal`, is one line of JSON on standard output.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

import msgspec
from msgspec import Struct

from events.course import Course
from events.evaluation import TaskScore
from events.settings import JobSettings, ModelSettings
from events.text import carried
from events.values import CheckpointId, Device, Dtype, JobId, Number, VersionId
from gpu.data.examine.report import PreviewRow, Report
from gpu.errors import StorageFailed, WorkerError
from gpu.model.training_memory import ModelShape
from gpu.runtime.streams import prepare_streams

Request = TypeVar("Request")

ON_INPUT = "-"
"""Stands for a request that is on standard input. An argument may have 128 KiB, about eighty files with their settings;
a home that was never consolidated has more."""

DTYPES: Mapping[Dtype, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""The dtypes that weights can be rounded to, and their names in a safetensors file."""


Quantization = Literal["q8_0", "q4_k_m", "f16"]
"""How a GGUF file stores weights: 8 bits, about 4.8 bits in a mix of formats, or 16 bits."""


class TasksRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Run tasks of lm-evaluation-harness."""

    model: str
    """The directory of the version."""
    tasks: tuple[str, ...]
    """Names, or paths of YAML files."""
    limit: int | None = None
    """Samples of each task; None: all."""
    device: Device = "auto"
    batch_size: int = 1


class TasksRun(Struct, frozen=True, kw_only=True, tag="tasks_run"):
    """The scores of tasks."""

    scores: tuple[TaskScore, ...]
    seconds: float
    device: str
    harness: str
    """The version of lm-evaluation-harness."""


class ExportRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Export a checkpoint or a version."""

    home: str
    checkpoint: str | None
    """The directory of the checkpoint; None: export the version."""
    version: VersionId | None = None
    """The version that the checkpoint was trained on; None: the origin."""
    target: str
    dtype: Dtype | None
    """None: each weight keeps the dtype of the base."""
    model: ModelSettings | None = None
    """The present place of the origin, if it was moved since the checkpoint."""


class Exported(Struct, frozen=True, kw_only=True, tag="exported"):
    """An exported model."""

    target: str
    size_bytes: int
    dtypes: tuple[str, ...]
    applied: float | None
    """The applied fraction (`gpu.versions.merge.MergeStats`); None if nothing was trained."""
    difference: float
    """Relative distance of the logits from those of base and checkpoint."""
    tolerance: float


class ExportGguf(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Export a checkpoint or a version as a GGUF file, with a Modelfile, into a directory."""

    model: ExportRequest
    """The model. Its target is the new directory."""
    name: str
    """The name of the file, without its suffix."""
    quantization: Quantization
    system: str = ""
    """The system prompt of the Modelfile."""


class GgufProof(Struct, frozen=True, kw_only=True):
    """How well a GGUF file in llama.cpp agrees with its model in transformers, on fixed prompts."""

    prompts: int
    same_answers: int
    """Prompts whose greedy answers are the same, token by token."""
    positions: int
    agreement: float
    """The fraction of positions at which both expect the same token most."""
    distance: float
    """The mean |ln p - ln p'| of the reference's tokens."""
    tolerance: float


class GgufExported(Struct, frozen=True, kw_only=True, tag="gguf_exported"):
    """An exported GGUF file."""

    target: str
    """The directory."""
    file: str
    size_bytes: int
    sha256: str
    quantization: Quantization
    stops: tuple[str, ...]
    """The tokens that end an answer."""
    modelfile: bool
    modelfile_problem: str = ""
    """The reason why there is no Modelfile."""
    proof: GgufProof
    seconds: float


class Refusal(Struct, frozen=True, kw_only=True, tag="refused"):
    """The request could not be carried out."""

    problem: str
    storage: bool = False
    """True if writing to the disk failed."""


class RerunRange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Consecutive steps of one job that are to run again."""

    job: JobId
    attempt: int
    """The attempt that ran the steps first; it names their checkpoint."""
    settings: JobSettings
    base: VersionId | None = None
    """The version that they were trained on; None: the origin."""
    batches_sha256: str
    """SHA-256 of their batch plan."""
    global_step: int
    """The global step before the first of them."""
    step: int
    """The step of the job before the first of them."""
    until: int
    carry_optimizer: bool
    course: Course = Course()
    """The steps that deviated from the plan, and deviate again."""
    environment: dict[str, str] = {}
    """The environment that they were trained in: device, libraries, arithmetic."""


class Rerun(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Run ranges of steps again, one after the other, in a separate directory."""

    home: str
    """The home with data and model. It is only read."""
    scratch: str
    """The directory for checkpoints; the one to start from is there too."""
    checkpoint: CheckpointId | None
    """The checkpoint to start from; None: the base."""
    rerun_ranges: tuple[RerunRange, ...]


class Reran(Struct, frozen=True, kw_only=True, tag="reran"):
    """The result of a `Rerun`."""

    checkpoint: CheckpointId
    """The last checkpoint, below `scratch`."""
    bits: tuple[tuple[int, Number, Number], ...]
    """(global step, loss, gradient norm) of each step."""
    environment: dict[str, str]


class Check(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Examine data files as the preparation of a job does."""

    home: str
    files: tuple[str, ...]
    settings: JobSettings
    plain_text: tuple[str, ...] = ()
    """Files that are read as plain text because of their names."""
    validation: str | None = None
    """Path of the validation set."""
    preview: int = 0
    """Rows to preview from the beginning of each file."""
    row: int | None = None
    """The number of a row, from 1: preview only this row of each file, and make no reports."""


class Checked(Struct, frozen=True, kw_only=True, tag="checked"):
    """A report for each file, in the order of the request."""

    reports: tuple[Report, ...]
    previews: tuple[tuple[PreviewRow, ...], ...] = ()
    """For each file the rows that were wanted; () for a file that does not have the row."""
    shape: ModelShape | None = None
    """The size of the model; None: its files do not say it."""


class TrainedJob(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A trained file, and the lines of it to locate."""

    job: JobId
    settings: JobSettings
    tokenizer_sha256: str
    """SHA-256 of the tokenizer that its plan was made with."""
    lines: tuple[int, ...] = ()


class LocateRows(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Find the steps that train on the rows of some lines."""

    home: str
    trained: tuple[TrainedJob, ...]


class Located(Struct, frozen=True, kw_only=True):
    """The steps of the rows of one file."""

    batches_sha256: str = ""
    """SHA-256 of the plan as it is made now; "" if it cannot be made."""
    problem: str = ""
    """The reason why the plan cannot be made; "" if it can."""
    steps: tuple[tuple[int, ...], ...] = ()
    """By line: the steps of the job, over all epochs, that train on its row; () for a blank line or a row that was left
    out."""


class Locations(Struct, frozen=True, kw_only=True, tag="located"):
    """The answer to `LocateRows`."""

    located: tuple[Located, ...]
    """One for each file of the request."""


def encode_request(request: Struct) -> str:
    """Return `request` as JSON in ASCII, which no locale changes on a command line.

    It carries every path: a byte that is not UTF-8 becomes an escaped lone surrogate.
    """
    return json.dumps(msgspec.to_builtins(request))


def decode_request(text: str | bytes, kind: type[Request]) -> Request:
    """Return the request that `encode_request` made `text` from. Raises ValueError."""
    return msgspec.convert(json.loads(text), kind)


def run_request(kind: type[Request], work: Callable[[Request], Struct]) -> None:
    """Call `work` with the request on the command line, and print its answer or a `Refusal`."""
    prepare_streams()
    try:
        text = sys.stdin.buffer.read() if sys.argv[1] == ON_INPUT else sys.argv[1]
        answer = work(decode_request(text, kind))
    except (WorkerError, OSError, ValueError, RuntimeError) as error:
        answer = Refusal(problem=" ".join(str(error).split()), storage=isinstance(error, StorageFailed))
    sys.stdout.buffer.write(msgspec.json.encode(carried(answer)) + b"\n")
    sys.stdout.buffer.flush()
