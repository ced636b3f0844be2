"""What is asked of the modules of `gpu` that run as processes of their own, and what they answer. No torch: the shell
speaks it too."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

import msgspec
from msgspec import Struct

from events.course import Course
from events.settings import JobSettings
from events.text import carried
from events.values import CheckpointId, JobId, Number, VersionId
from gpu.data.report import Report
from gpu.errors import StorageFailed, WorkerError
from gpu.streams import prepare_streams

Asked = TypeVar("Asked")

ON_INPUT = "-"
"""Instead of an order: it is on standard input. An argument may have 128 KiB, which is some eighty files with their
settings; and a base that was never consolidated has more."""

Dtype = Literal["float32", "bfloat16", "float16"]

DTYPES: Mapping[Dtype, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""What weights can be rounded to, and what a safetensors file calls it."""


class Order(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is wanted."""

    home: str
    checkpoint: str | None
    """Its directory; None: the version itself is wanted."""
    version: VersionId | None = None
    """What the checkpoint was trained beside; None: the origin."""
    target: str
    dtype: Dtype | None
    """None: each weight as the base has it."""


class Exported(Struct, frozen=True, kw_only=True, tag="exported"):
    """A model that stands under its name."""

    target: str
    size_bytes: int
    dtypes: tuple[str, ...]
    applied: float | None
    """The applied fraction: how much of what was learned the stored weights moved; None if nothing was learned."""
    difference: float
    """Of its logits, as a share of theirs."""
    tolerance: float


class Refusal(Struct, frozen=True, kw_only=True, tag="refused"):
    """Why there is none."""

    problem: str
    storage: bool = False
    """Whether it is the disk's fault that was to be written to."""


class Stretch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Steps of one job that are to be run once more."""

    job: JobId
    attempt: int
    """The number that their checkpoint is named with: that of the attempt that ran them."""
    settings: JobSettings
    base: VersionId | None = None
    """What they were trained beside; None: the origin."""
    batches_sha256: str
    """Of the plan that they followed."""
    global_step: int
    """The one before the first of them."""
    step: int
    """The same, counted within the job."""
    until: int
    carry_optimizer: bool
    course: Course = Course()
    """What was done otherwise than planned, and is again."""
    environment: dict[str, str] = {}
    """What they were trained in: device, libraries, arithmetic."""


class Rerun(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Run stretches one after the other, in a place of their own."""

    home: str
    """Where data and model are."""
    scratch: str
    """Where checkpoints are written; the one to start from lies there too."""
    checkpoint: CheckpointId | None
    """None: the base."""
    stretches: tuple[Stretch, ...]


class Reran(Struct, frozen=True, kw_only=True, tag="reran"):
    """What came of it."""

    checkpoint: CheckpointId
    """The last one, below `scratch`."""
    bits: tuple[tuple[int, Number, Number], ...]
    """(global step, loss, gradient norm) of each step."""
    environment: dict[str, str]


class Check(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Look through data files, as preparation would."""

    home: str
    files: tuple[str, ...]
    settings: JobSettings
    plain_text: tuple[str, ...] = ()
    """Those of the files whose names say that they are plain text: they are read as that unless they hold rows."""
    validation: str | None = None
    """Where the validation set is."""


class Checked(Struct, frozen=True, kw_only=True, tag="checked"):
    """What was found, a report for each file."""

    reports: tuple[Report, ...]


class Learned(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file that was learned, and lines of it that are asked about."""

    job: JobId
    settings: JobSettings
    tokenizer_sha256: str
    """Of its plan."""
    lines: tuple[int, ...] = ()


class Whereabouts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which steps learn the rows on some lines."""

    home: str
    learned: tuple[Learned, ...]


class Located(Struct, frozen=True, kw_only=True):
    """Where the rows of a file are."""

    batches_sha256: str = ""
    """Of the plan as it is made today; "" if it cannot be made."""
    problem: str = ""
    """Why not."""
    steps: tuple[tuple[int, ...], ...] = ()
    """For each line the steps of the job, over all epochs, that learn something of the row there; none if the line is
    blank, or its row was left out."""


class Locations(Struct, frozen=True, kw_only=True, tag="located"):
    """The answer to `Whereabouts`."""

    located: tuple[Located, ...]
    """One for each file that was asked about."""


def encode_order(order: Struct) -> str:
    """`order` as JSON of ASCII characters. It carries every path: a byte that is not UTF-8 becomes an escaped lone
    surrogate, and no locale changes the text on a command line."""
    return json.dumps(msgspec.to_builtins(order))


def decode_order(text: str | bytes, kind: type[Asked]) -> Asked:
    """The reverse of `encode_order`. Raises ValueError."""
    return msgspec.convert(json.loads(text), kind)


def reply(kind: type[Asked], work: Callable[[Asked], Struct]) -> None:
    """Do `work` for the order on the command line (ON_INPUT: on standard input), and print what came of it, or a
    `Refusal`, as one line of JSON in UTF-8."""
    prepare_streams()
    try:
        said = sys.stdin.buffer.read() if sys.argv[1] == ON_INPUT else sys.argv[1]
        answer = work(decode_order(said, kind))
    except (WorkerError, OSError, ValueError, RuntimeError) as error:
        answer = Refusal(problem=" ".join(str(error).split()), storage=isinstance(error, StorageFailed))
    sys.stdout.buffer.write(msgspec.json.encode(carried(answer)) + b"\n")
    sys.stdout.buffer.flush()
