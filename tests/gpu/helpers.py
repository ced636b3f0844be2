"""The worker's other end, in this process: it writes down what is said and commits at once. And small checkpoints."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from core.topics.step_recovery import next_split
from events.course import Course
from events.evaluation import Suites
from events.messages import AnyFact, CheckpointWritten, OutOfMemory, Prepare, Prepared, Sample, Step, Train
from events.samples import SampleBudget, SamplePlan
from events.settings import (
    CheckpointSettings,
    DataSettings,
    FullSettings,
    JobSettings,
    LoraSettings,
    ModelSettings,
    QloraSettings,
    TrainingSettings,
)
from gpu.artifacts.artifact import CheckpointDirectory
from gpu.artifacts.commit import Committed, Content
from gpu.artifacts.manifest import Cursor, Lineage, Manifest
from journal.storage import REAL, Storage

LORA = LoraSettings(r=4, dropout=0.1)
QLORA = QloraSettings(r=4, dropout=0.1)
FULL = FullSettings()
STRAIGHT = Course()
"""Nothing was split or skipped."""


NAME = "step-00000003-attempt-0001"
CONTENTS = {"weights": b"w" * 1000, "config.json": b"{}"}


def commit(
    checkpoints: Path,
    manifest: Manifest,
    contents: Mapping[str, Content],
    watch: Callable[[bytes], None] = lambda _: None,
    *,
    storage: Storage = REAL,
) -> Committed:
    """Write a checkpoint below `checkpoints`."""
    return CheckpointDirectory(checkpoints / manifest.checkpoint, storage).write(contents, manifest.with_files, watch)


def manifest(name: str = NAME) -> Manifest:
    return Manifest(
        checkpoint=name,
        cursor=Cursor(job="0" * 64, global_step=3, step=3, steps_total=3, epoch=1),
        lineage=Lineage(
            attempt=1,
            parent=None,
            data_sha256="",
            batches_sha256="",
            tokenizer_sha256="",
            settings=JobSettings(model=ModelSettings(path="model")),
        ),
        parameters=(),
        optimizer="none",
        environment={},
        files={},
    )


def safetensors(shapes: Mapping[str, tuple[int, ...]], fill: float = 0.0) -> bytes:
    """A file that is `fill` all through, made without torch."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + struct.pack("<f", fill) * (end // 4)


class FakeChannel:
    """A daemon's end that commits what is reported, and asks to yield after a number of steps."""

    def __init__(self, yield_after: int | None = None, commits: bool = True) -> None:
        self.facts: list[AnyFact] = []
        self.course = Course()
        self.yield_after = yield_after
        self.sample_orders: list[Sample] = []
        """Orders about samples that the worker takes one by one."""
        self.committed = threading.Event()
        self._last: str | None = None
        if commits:
            self.committed.set()

    def send(self, fact: AnyFact) -> None:
        self.facts.append(fact)
        if isinstance(fact, CheckpointWritten):
            self._last = fact.checkpoint

    def take_sample_order(self) -> Sample | None:
        return self.sample_orders.pop(0) if self.sample_orders else None

    def yield_requested(self) -> bool:
        return self.yield_after is not None and len(self.of(Step)) >= self.yield_after

    def is_committed(self, checkpoint: str) -> bool:
        return self.committed.is_set() and self._last == checkpoint

    def wait_committed(self, checkpoint: str) -> None:
        assert self.committed.wait(30)

    def request_course(self, fact: OutOfMemory) -> Course:
        """As the daemon decides."""
        self.send(fact)
        split = next_split(self.course, fact.step, fact.sequences)
        assert split is not None, "one row alone does not fit"
        self.course = self.course.with_split(split)
        return self.course

    def of(self, kind: type[Any]) -> list[Any]:
        return [fact for fact in self.facts if isinstance(fact, kind)]


def settings(
    method: Any = LORA,
    *,
    data: DataSettings | None = None,
    every_steps: int = 0,
    dtype: Literal["float32", "bfloat16"] = "float32",
    **training: Any,
) -> JobSettings:
    """Quick ones: two epochs, accumulation 2, one thread."""
    defaults = {"batch_size": 2, "gradient_accumulation": 2, "epochs": 2, "learning_rate": 0.01, "threads": 1}
    return JobSettings(
        model=ModelSettings(path="model", dtype=dtype),
        method=method,
        data=data or DataSettings(),
        training=TrainingSettings(**{**defaults, **training}),
        checkpoints=CheckpointSettings(every_steps=every_steps, every_seconds=0),
    )


@dataclass
class Home:
    """A home directory with a model in it."""

    path: Path
    channel: FakeChannel = field(default_factory=FakeChannel)
    attempts: int = 0

    def add(self, data: bytes) -> str:
        job = hashlib.sha256(data).hexdigest()
        (self.path / "data").mkdir(exist_ok=True)
        (self.path / "data" / f"{job}.jsonl").write_bytes(data)
        return job

    def new_session(self, **channel: Any) -> Any:
        """A worker that has nothing in memory."""
        from gpu.session import Session

        self.channel = FakeChannel(**channel)
        return Session(self.path, self.channel)

    def train_job(
        self,
        session: Any,
        job: str,
        how: JobSettings,
        *,
        step: int = 0,
        global_step: int | None = None,
        until: int | None = None,
        base: str | None = None,
        checkpoint: str | None = None,
        carry: bool = True,
        course: Course = STRAIGHT,
        evaluates: bool = False,
        evaluated_to: int = -1,
        samples: SamplePlan | None = None,
        budget: SampleBudget = SampleBudget(),  # noqa: B008  # frozen
        suites: Suites | None = None,
    ) -> str:
        """One attempt at `job`; returns the last checkpoint."""
        self.attempts += 1
        self.channel.course = course
        session.prepare(Prepare(attempt=self.attempts, job=job, settings=how))
        plan = self.channel.of(Prepared)[-1].plan
        session.train(
            Train(
                attempt=self.attempts,
                global_step=step if global_step is None else global_step,
                step=step,
                until=plan.steps_total if until is None else until,
                base=base,
                checkpoint=checkpoint,
                carry_optimizer=carry,
                course=course,
                evaluates=evaluates,
                evaluated_to=evaluated_to,
                samples=budget,
                sample_plan=samples,
                suites=suites,
            )
        )
        return str(self.channel.of(CheckpointWritten)[-1].checkpoint)

    def directory(self, checkpoint: str) -> Path:
        return self.path / "checkpoints" / checkpoint

    def bits(self, checkpoint: str) -> dict[str, str]:
        """The SHA-256 of all trained weights."""
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.directory(checkpoint).glob("*.safetensors"))
        }
