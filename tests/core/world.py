"""A world around the machine: a daemon that carries out effects and a worker that reports facts, without a process.

The daemon does what `cli/daemon/loop.py` does with effects, the worker (`simulated_worker.py`) what `gpu/worker.py`
does with orders, one small action at a time, so that a test may stop, kill or contradict them anywhere. Every event
passes `World.happens`, which keeps the books that the machine's promises are held against.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from msgspec.structs import replace

from core import commands, effects
from core.commands import AnyCommand
from core.decide import decide
from core.effects import next_effects
from core.errors import Refused
from core.evolve import evolve
from core.state import State
from events import kinds, messages
from events.codec import decode, encode
from events.kinds import AnyEvent, MicrobatchSplit
from events.settings import (
    CheckpointSettings,
    DataSettings,
    EvaluationSettings,
    Gate,
    JobSettings,
    LoraSettings,
    ModelSettings,
    TrainingSettings,
    VersionSettings,
)
from events.values import Failure, Number
from tests.core.simulated_worker import Worker

START = 1_800_000_000.0
"""Some time in Unix seconds; nothing depends on which."""

ROOMY = 2**40
"""A disk with more room than anybody wants."""


def settings(
    *, model: str = "tiny", seed: int = 1, r: int = 16, every_steps: int = 2, keep: int = 2, held_out: bool = False
) -> JobSettings:
    """The settings of a small job; `held_out`: there are rows that it is evaluated on, after every second step."""
    return JobSettings(
        model=ModelSettings(path=model),
        method=LoraSettings(r=r),
        training=TrainingSettings(seed=seed),
        checkpoints=CheckpointSettings(every_steps=every_steps, keep=keep),
        data=DataSettings(holdout=0.1 if held_out else 0.0),
        evaluation=EvaluationSettings(every_steps=2),
    )


def job_id(number: int) -> str:
    """The id of the n-th file."""
    return f"{number:064x}"


class World:
    """State, journal, daemon and worker; and the books."""

    def __init__(self) -> None:
        self.state = State()
        self.now = START
        self.journal: list[AnyEvent] = []
        self.config = settings()
        self.steps: dict[str, int] = {}
        """How many steps each file has; 0: it cannot be learned from."""
        self.spoiled: set[str] = set()
        self.room: dict[tuple[str, int], int] = {}
        """For (job, step): how many sequences fit into memory at once, of the four that a micro-batch has."""
        self.poisoned: set[tuple[str, int]] = set()
        """(job, step) whose numbers run away."""
        self.validation: dict[int, Number] = {}
        """By step: the loss on held-out rows, where it is not that of training."""
        self.gate: Gate | None = None
        """[versions] gate of the next consolidation; None: versions are not evaluated."""
        self.right = 10
        """The right answers of the next version, of ten; its parent has ten."""
        self.has_suites = True
        """There are held-out rows or questions."""
        self.measures = True
        """There is something to evaluate a version on."""
        self.worker: Worker | None = None
        self.facts: list[messages.AnyFact] = []
        """Everything that workers ever said, heard or not."""
        self.alive = False
        self.free_bytes = ROOMY
        self.timeline: list[tuple[str, int]] = []
        """(job, step) of each committed global step."""
        self.stood: dict[str, tuple[tuple[str, int], ...]] = {}
        """The timeline of each checkpoint and version."""
        self.moved = False
        self.lost: list[tuple[str, int]] = []
        """What quarantine took from the timeline and has to come back, in this order."""
        self.reached: list[tuple[str, int]] = []
        self.ends: dict[str, list[str]] = {}
        self.execute(commands.CreateHome(home_id="home", keepstep="0"))

    # -- the daemon's side ------------------------------------------------------------------------------------------

    def execute(self, command: AnyCommand) -> list[AnyEvent]:
        """Decide and journal. Raises Refused."""
        events = list(decide(self.state, command, self.now))
        for event in events:
            self.happens(event)
        for event in events:
            if isinstance(event, kinds.CheckpointCommitted) and self.worker is not None:
                self.worker.deliver(messages.Committed(attempt=event.attempt, checkpoint=event.checkpoint))
            elif (
                isinstance(event, MicrobatchSplit)
                and self.worker is not None
                and self.state.attempts.current is not None
            ):
                assert self.state.training.current is not None
                self.worker.deliver(messages.RunAgain(attempt=event.attempt, course=self.state.training.current.course))
            elif isinstance(event, kinds.AttemptFailed) or (
                isinstance(event, kinds.ConsolidationAborted | kinds.VersionEvaluationFailed)
                and event.failure is not None
            ):
                self.end_worker()
        return events

    def refused(self, command: AnyCommand) -> str | None:
        """Try a command; the reason if it is refused."""
        try:
            self.execute(command)
        except Refused as refusal:
            return str(refusal)
        return None

    def start(self) -> list[AnyEvent]:
        """A daemon starts, whatever became of the one before."""
        self.end_worker()
        self.alive = True
        return self.execute(
            commands.StartDaemon(pid=7, process_started_at=self.now, boot_id="boot", host="here", keepstep="0")
        )

    def add(self, steps: int, priority: str = "normal") -> str:
        """A file of so many steps arrives."""
        job = job_id(len(self.steps) + 1)
        self.steps[job] = steps
        name = f"file-{len(self.steps)}.jsonl"
        self.execute(commands.AddFile(job=job, name=name, size_bytes=100 * (steps + 1), priority=priority, known=False))
        return job

    def again(self, job: str) -> str | None:
        """Bytes that were accepted before are to be trained once more; the reason if that is refused."""
        name = f"again-{int(job, 16)}.jsonl"
        return self.refused(
            commands.AddFile(job=job, name=name, size_bytes=1, priority="normal", known=True, retrain=True)
        )

    def pending_effects(self) -> tuple[effects.AnyEffect, ...]:
        """What the machine asks for now."""
        return next_effects(self.state, self.now)

    def turn(self) -> bool:
        """Carry out pending work; return whether anything was done. Waiting makes time pass."""
        if not self.alive:
            return False
        before = len(self.journal), self._orders_given(), self.now
        for effect in self.pending_effects():
            self._carry_out(effect)
        return (len(self.journal), self._orders_given(), self.now) != before

    def _orders_given(self) -> int:
        return len(self.worker.sent) if self.worker else 0

    def _carry_out(self, effect: effects.AnyEffect) -> None:
        match effect:
            case effects.BeginAttempt():
                self.execute(commands.StartAttempt(job=effect.job, settings=self.config))
            case effects.SendToWorker(message=message):
                if self.worker is None and isinstance(message, messages.Yield):
                    self.execute(messages.Yielded(attempt=message.attempt))
                else:
                    self._order(message)
            case effects.BeginConsolidation():
                self.execute(commands.StartConsolidation(gate=self.gate))
            case effects.BeginEvaluation():
                limits = VersionSettings(gate=self.gate) if self.gate is not None else VersionSettings()
                self.execute(commands.StartEvaluation(settings=limits, has_suites=self.has_suites))
            case effects.RestoreCheckpoint():
                self.spoiled.discard(effect.checkpoint)
                self.execute(commands.RecordRestored())
            case effects.MoveRejected():
                self.execute(commands.RecordRejectedMoved(job=effect.job, path="rejected/x"))
            case effects.AwaitDiskSpace():
                self.execute(commands.ReportDiskFree(free_bytes=self.free_bytes))
            case effects.WaitUntil():
                self.now = effect.at
            case effects.StopProcess():
                self.execute(commands.StopDaemon(reason="asked to stop"))
                self.end_worker()
                self.alive = False

    def _order(self, order: messages.AnyOrder) -> None:
        if self.worker is None:
            self.worker = Worker(self)
        yielding = (messages.Yield, order.attempt) in self.worker.sent  # it will answer that, and nothing else
        if (type(order), order.attempt) not in self.worker.sent and not yielding:
            self.worker.deliver(order)

    def receive(self) -> list[AnyEvent] | None:
        """Take one fact from the worker; None if it said nothing."""
        if self.worker is None or not self.worker.outbox:
            return None
        fact = self.worker.outbox.popleft()
        self.facts.append(fact)
        return self.execute(fact)

    def end_worker(self) -> None:
        """Kill the worker; what it said and nobody heard is too late now."""
        if self.worker is not None:
            self.facts.extend(self.worker.outbox)
            self.worker = None

    def lose_worker(self, failure: Failure = "killed") -> list[AnyEvent]:
        """The worker dies, and the daemon notices."""
        attempt = self.state.attempts.current
        self.end_worker()
        if attempt is None:
            return []
        return self.execute(
            commands.ReportWorkerLost(attempt=attempt, failure=failure, message=f"a failure: {failure}")
        )

    def fails(self, failure: Failure) -> list[AnyEvent]:
        """The worker reports that the attempt failed."""
        assert self.state.attempts.current is not None
        return self.execute(
            messages.Failed(
                attempt=self.state.attempts.current, failure=failure, message=f"a failure: {failure}", trace=""
            )
        )

    def runs_out(self, free_bytes: int = 0) -> list[AnyEvent]:
        """The daemon itself finds the disk full."""
        self.free_bytes = free_bytes
        return self.execute(commands.ReportDiskFull(message="the disk is full"))

    def steady(self) -> Iterator[None]:
        """Let daemon and worker work; yields after each thing done, ends when nothing more happens."""
        quiet = 0
        while quiet < 3:  # all three in a row had nothing to do
            for action in (self._act, self._receive, self.turn):
                quiet = 0 if action() else quiet + 1
                if not quiet:
                    yield

    def _act(self) -> bool:
        return self.worker is not None and self.worker.act()

    def _receive(self) -> bool:
        return self.receive() is not None

    def run(self, *, limit: int = 5_000) -> None:
        """Let daemon and worker work until nothing more happens."""
        for count, _ in enumerate(self.steady()):
            assert count < limit, f"no end in sight: {self.pending_effects()}"

    def run_until(self, event: type[AnyEvent], count: int = 1) -> None:
        """Work until so many more events of this type have happened."""
        seen = len(self.journal)
        for _ in self.steady():
            if sum(isinstance(each, event) for each in self.journal[seen:]) >= count:
                return
        raise AssertionError(f"{event.__name__} never happened")

    # -- the books --------------------------------------------------------------------------------------------------

    def happens(self, event: AnyEvent) -> None:
        """One event: it must be legal, it must survive the disk, and the books must agree with the state."""
        assert decode(encode(event)) == event
        before, self.state = self.state, evolve(self.state, event)
        self.journal.append(event)
        self._keep_books(before, event)

    def _keep_books(self, before: State, event: AnyEvent) -> None:
        match event:
            case kinds.FileEnqueued():
                ended = self.ends.pop(event.job, [])
                assert event.retrain or set(ended) <= {"JobRejected", "JobRemoved"}
            case kinds.AttemptStarted():
                assert before.disk.full is None, "an attempt was begun on a full disk"
                self.reached = []
            case kinds.StepReached():
                self.reached.append((event.job, event.step))
            case kinds.CheckpointCommitted():
                count = event.global_step - before.head.global_step
                fresh, self.reached = self.reached[:count], self.reached[count:]
                pending_effects, self.lost = self.lost[:count], self.lost[count:]
                assert fresh[: len(pending_effects)] == pending_effects, (
                    "committed steps that were lost did not come back as they were"
                )
                self.timeline.extend(fresh)
                self.stood[event.checkpoint] = tuple(self.timeline)
            case kinds.VersionPublished():
                self.stood[event.version] = tuple(self.timeline)
            case kinds.HeadMoved():
                self.timeline = list(self.stood.get(event.checkpoint or event.version or "", ()))
                self.moved = True
            case kinds.CheckpointQuarantined():
                head = before.head.checkpoint
                assert head is not None
                assert (self.state.head.checkpoint == head) == (event.checkpoint != head.id)
                at = self.state.head.global_step
                self.timeline, lost = self.timeline[:at], self.timeline[at:]
                self.lost = lost + self.lost
            case kinds.JobTrained() | kinds.JobSkipped() | kinds.JobRejected() | kinds.JobFailed() | kinds.JobRemoved():
                job = before.job(event.job)
                assert job is not None
                if isinstance(event, kinds.JobRemoved) and job.status == "failed":
                    self.ends[event.job].remove("JobFailed")
                if job.until is None or isinstance(event, kinds.JobRemoved):
                    self.ends.setdefault(event.job, []).append(type(event).__name__)
            case kinds.JobRetried():
                assert self.ends[event.job].pop() == "JobFailed"
            case kinds.StorageFreed():
                assert before.disk.full is not None
                assert event.free_bytes >= before.disk.full.wanted_bytes
                assert replace(before, disk=replace(before.disk, full=None)) == self.state
        assert len(self.timeline) == self.state.head.global_step
        if not isinstance(event, kinds.CheckpointQuarantined | kinds.HeadMoved):
            assert self.state.head.global_step >= before.head.global_step

    def check_timeline(self) -> None:
        """Each job's committed steps are 1, 2, 3, …, once each, in each pass; all of them for a job that is trained.

        Once a person has moved the head, detached steps are not in it, and may be trained again.
        """
        if self.moved:
            return
        steps: dict[str, list[int]] = {}
        for job, step in self.timeline:
            steps.setdefault(job, []).append(step)
        passes = {job: _passes(found) for job, found in steps.items()}
        for job, found in steps.items():
            assert found == [step for length in passes[job] for step in range(1, length + 1)]
        for job, ends in self.ends.items():
            if ends == ["JobTrained"] and not self.lost:
                assert passes.get(job, [0])[-1] == self.steps[job]


def _passes(steps: list[int]) -> list[int]:
    """How far each pass over a file came: one ends where the next begins with step 1."""
    begins = [*(at for at, step in enumerate(steps) if step == 1), len(steps)]
    return [end - begin for begin, end in pairwise(begins)]


def seen(state: State) -> Any:
    """A state without what it shares with later ones: only its own part of the trail."""
    step_log = state.recovery.step_log
    return replace(state, recovery=replace(state.recovery, step_log=step_log.between(step_log.base, step_log.last)))
