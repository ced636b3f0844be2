"""The machine's promises, under whatever may happen: commands, kills, bad disks and late words in any order."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from core import commands
from core.commands import AnyCommand
from core.decide import decide
from core.errors import IllegalEvent
from core.evolve import evolve
from core.topics.disk import MARGIN_BYTES
from core.transitions import RUNNING
from core.values import DetachedCheckpoint
from events import kinds
from events.codec import Record, decode, encode
from events.settings import Gate, RetentionSettings
from events.values import PRIORITIES, Failure
from projections.fold import fold
from projections.progress import Folded
from projections.snapshot import Snapshot, read_snapshot, reducer_version, write_snapshot
from tests.core.simulated_worker import CHECKPOINT_BYTES
from tests.core.world import ROOMY, World, seen
from tests.core.world import settings as job_settings

FAILURES = get_args(Failure)

ASKED = ["pause", "resume", "stop", "skip", "skip", "skip any", "retry", "prune"]
ASKED += ["move", "first", "before", "hold", "hold", "release", "remove", "again", "again"]
ASKED += ["consolidate", "consolidate", "drop", "rollback", "restore", "go back", "bring back", "back up", "delete"]
ASKED += ["promote", "promote", "discard", "evaluate"]


class Life(RuleBasedStateMachine):
    """A home over months, in a few steps. Whatever was, `teardown` ends the trouble and holds the promises up."""

    @initialize(
        keep=st.integers(1, 3),
        every=st.integers(1, 3),
        files=st.lists(st.integers(1, 7), min_size=1, max_size=4),
        gate=st.sampled_from([None, "off", "warn", "hold", "hold"]),
    )
    def begin(self, keep: int, every: int, files: list[int], gate: Gate | None) -> None:
        self.world = World()
        self.world.gate = gate
        self.keep, self.every = keep, every
        self.model, self.seed = "tiny", 1
        self._configure()
        self.world.start()
        for steps in files:
            self.world.add(steps)

    def _configure(self) -> None:
        self.world.config = job_settings(model=self.model, seed=self.seed, keep=self.keep, every_steps=self.every)

    # -- work

    @rule(steps=st.integers(0, 6), priority=st.sampled_from(["high", "normal", "low"]))
    def add(self, steps: int, priority: str) -> None:
        self.world.add(steps, priority)

    @rule(count=st.integers(1, 60))
    def continue_work(self, count: int) -> None:
        """Somebody sees to it that the daemon is up and works."""
        if not self.world.alive:
            self.world.start()
        self.world.refused(commands.Resume())
        for _, _ in zip(range(count), self.world.steady(), strict=False):
            pass

    @rule(count=st.integers(1, 20))
    def work(self, count: int) -> None:
        """Daemon and worker continue under whatever was asked of them."""
        for _, _ in zip(range(count), self.world.steady(), strict=False):
            pass

    @rule(which=st.sampled_from(["turn", "act", "act", "hear", "hear"]))
    def small(self, which: str) -> None:
        """One of the two does one thing, and the other is slow."""
        if which == "turn":
            self.world.turn()
        elif which == "hear":
            self.world.receive()
        elif self.world.worker is not None:
            self.world.worker.act()

    # -- people

    @rule(
        which=st.sampled_from(ASKED),
        any_job=st.integers(0),
    )
    def ask(self, which: str, any_job: int) -> None:
        state, jobs = self.world.state, sorted(self.world.steps)
        job = jobs[any_job % len(jobs)]
        version = _any(any_job, [each.id for each in state.retention.versions]) or "v999"
        held = _any(any_job, [each.version for each in state.evaluations.held]) or version
        wanted: dict[str, AnyCommand] = {
            "pause": commands.Pause(),
            "resume": commands.Resume(),
            "stop": commands.Stop(alive=self.world.alive),
            "skip": commands.Skip(),
            "skip any": commands.Skip(job=job),
            "retry": commands.Retry(job=next((job for job, _ in self.world.state.outcomes.failed.items()), job)),
            "move": commands.MoveJob(job=job, priority=PRIORITIES[any_job % 3]),
            "first": commands.MoveJob(job=job, first=True),
            "before": commands.MoveJob(job=job, before=jobs[any_job // 7 % len(jobs)]),
            "hold": commands.HoldJob(job=job),
            "release": commands.ReleaseJob(job=_any(any_job, [job.id for job in state.queue]) or job),
            "remove": commands.RemoveJob(job=job),
            "prune": commands.PruneCheckpoints(keep=1 + any_job % 2),
            "consolidate": commands.RequestConsolidation(description="", after_current=any_job % 2 == 0),
            "drop": commands.CancelConsolidation(),
            "rollback": commands.RollBack(),
            "restore": commands.MoveHead(version=_any(any_job, [each.id for each in state.retention.versions])),
            "go back": commands.MoveHead(
                checkpoint=_any(any_job, [each.checkpoint.id for each in state.head.detached])
            ),
            "bring back": commands.MoveHead(backup=_any(any_job, [each.id for each in state.retention.backups])),
            "delete": commands.DeleteVersion(version=version),
            "promote": commands.PromoteVersion(version=held),
            "discard": commands.DiscardVersion(version=held),
            "evaluate": commands.RequestEvaluation(version=version),
        }
        self.world.right = 4 + any_job % 7
        if which == "back up":
            self._back_up()
            return
        if which == "again":
            self.world.again(job)
            return
        self.world.refused(wanted[which])

    def _back_up(self) -> None:
        state = self.world.state
        if state.head.checkpoint is None or state.head.weight_settings is None:
            return
        held = DetachedCheckpoint(
            base=state.head.base, checkpoint=state.head.checkpoint, weight_settings=state.head.weight_settings
        )
        number = state.retention.backups_made + 1
        self.world.execute(
            commands.RecordBackup(
                backup=f"manual-{number:04d}", reason="", held=held, size_bytes=1, manifest_sha256="ee" * 32
            )
        )

    @rule(days=st.sampled_from([0.0, 1.0]), keep=st.integers(0, 2))
    def retain(self, days: float, keep: int) -> None:
        """Retention, by some config."""
        retention = RetentionSettings(versions=keep, backups=1, days=days)
        self.world.refused(commands.Retain(retention=retention))

    @rule(model=st.sampled_from(["tiny", "tiny", "other"]), seed=st.integers(1, 2), keep=st.integers(1, 3))
    def configure(self, model: str, seed: int, keep: int) -> None:
        self.model, self.seed, self.keep = model, seed, keep
        self._configure()

    # -- trouble

    @rule(start_again=st.booleans())
    def crash(self, start_again: bool) -> None:
        """Daemon and worker are killed."""
        self.world.end_worker()
        self.world.alive = False
        if start_again:
            self.world.start()

    @precondition(lambda self: self.world.state.attempts.current is not None and self.world.alive)
    @rule(failure=st.sampled_from(FAILURES), reported=st.booleans(), times=st.integers(1, 6))
    def fail(self, failure: Failure, reported: bool, times: int) -> None:
        """An attempt fails, and perhaps those after it."""
        for _ in range(times):
            if self.world.state.attempts.current is None:
                return
            if reported:
                self.world.fails(failure)
            else:
                self.world.lose_worker(failure)
            self.world.turn()
            self.world.turn()

    @precondition(lambda self: self.world.state.head.checkpoints)
    @rule(count=st.integers(1, 3), reload=st.booleans())
    def spoil(self, count: int, reload: bool) -> None:
        """The newest checkpoints rot; it is noticed when one is loaded."""
        self.world.spoiled.update(checkpoint.id for checkpoint in self.world.state.head.checkpoints[-count:])
        if reload:
            self.world.start()

    @precondition(lambda self: self.world.state.head.checkpoints)
    @rule(which=st.lists(st.integers(0), min_size=1, max_size=3), reload=st.booleans())
    def quarantine(self, which: list[int], reload: bool) -> None:
        """Some checkpoints are found to be bad, in any order; a daemon that starts looks at all of them."""
        if reload:
            self.world.start()
        ids = [checkpoint.id for checkpoint in self.world.state.head.checkpoints]
        for number in which:
            bad = ids[-1 - number % len(ids)]  # the head most often: that is what most depends on
            self.world.refused(commands.QuarantineCheckpoint(checkpoint=bad, problem="found while it lay"))

    @rule(free_bytes=st.sampled_from([0, MARGIN_BYTES, MARGIN_BYTES + 2 * CHECKPOINT_BYTES, ROOMY]))
    def run_out_of_space(self, free_bytes: int) -> None:
        """Somebody's write finds no room, perhaps for a moment only; whatever ran has ended without a failure."""
        before = [(job.id, job.failures) for job in self.world.state.training.in_progress]
        self.world.runs_out(free_bytes)
        assert self.world.state.disk.full is not None
        after = [(job.id, job.failures) for job in self.world.state.training.in_progress]
        assert after in (before, before[1:])  # the one that was to be skipped is gone

    @rule(free_bytes=st.sampled_from([0, MARGIN_BYTES, ROOMY]))
    def other_room(self, free_bytes: int) -> None:
        """Somebody else frees room on the disk, or takes it."""
        self.world.free_bytes = free_bytes

    @rule(leave=st.booleans())
    def by_itself(self, leave: bool) -> None:
        """The daemon leaves, or finds that it needs a person."""
        if not leave:
            self.world.refused(commands.HoldWork(reason="the config is broken", advice="fix it"))
        elif self.world.refused(commands.StopDaemon(reason="nothing is left to do")) is None:
            self.world.end_worker()
            self.world.alive = False

    # -- words that should not be

    @precondition(lambda self: self.world.facts)
    @rule(which=st.integers(0), current=st.booleans())
    def stray_word(self, which: int, current: bool) -> None:
        """Anything ever said is said again: too late, it changes nothing; by the running worker, nothing illegal."""
        state, facts = self.world.state, self.world.facts
        fact = facts[which % len(facts)]
        if fact.attempt != state.attempts.current:
            assert list(decide(state, fact, self.world.now)) == []
        if current and state.attempts.current is not None:
            self.world.execute(replace(fact, attempt=state.attempts.current))
            self.world.lose_worker("code")

    @rule(which=st.integers(0))
    def stray_event(self, which: int) -> None:
        """Any event of the past, once more: it is taken or refused, and the state before it stays as it was."""
        state, journal = self.world.state, self.world.journal
        before = encoded(state)
        with suppress(IllegalEvent):
            evolve(state, journal[which % len(journal)])
        assert encoded(state) == before

    # -- what always holds

    @invariant()
    def one_attempt_at_the_current_job(self) -> None:
        """An attempt runs exactly while the current job is being worked at, and no other job ever is."""
        state = self.world.state
        running = [job for job in state.training.in_progress if job.status in RUNNING]
        other = state.consolidation.running is not None or state.evaluations.running is not None
        at_a_job = state.attempts.current is not None and not other
        assert running == ([state.training.current] if at_a_job else [])
        assert not other or (state.attempts.current is not None and not state.training.in_progress)
        assert all(job.status in {"queued", "held"} for job in state.queue)
        assert all(job.status == "failed" for job in state.outcomes.failed.values())

    @invariant()
    def every_file_is_somewhere_once(self) -> None:
        """An accepted file waits, is in progress, has failed, or has ended, and is in one of these places only."""
        state = self.world.state
        for job in self.world.steps:
            ended = [end for end in self.world.ends.get(job, []) if end != "JobFailed"]
            in_progress = sum(each.id == job and each.until is None for each in state.training.in_progress)
            places = [
                state.queue.get(job) is not None,
                in_progress,
                state.outcomes.failed.get(job) is not None,
                len(ended),
            ]
            assert sum(places) == 1, (job, places)

    @invariant()
    def a_held_job_keeps_its_place_and_nothing_else_does(self) -> None:
        """What is taken next is the first that is not held; every lane knows how many stand in it."""
        queue = self.world.state.queue
        jobs = list(queue)
        assert list(queue.ready()) == [job for job in jobs if job.status == "queued"]
        assert [lane.length for lane in queue.lanes] == [
            sum(job.priority == each for job in jobs) for each in PRIORITIES
        ]
        assert queue.held == sum(job.status == "held" for job in jobs)

    @invariant()
    def nothing_runs_on_a_full_disk(self) -> None:
        """And nothing but room is waited for then, unless the daemon is to leave."""
        state = self.world.state
        if state.disk.full is not None:
            assert state.attempts.current is None
            assert len(self.world.pending_effects()) == 1

    @invariant()
    def what_can_be_lost_can_be_run_again(self) -> None:
        """Stretches and trail reach from the head back to the oldest checkpoint, or to the base, without a gap."""
        state = self.world.state
        first = state.recovery.replayable_from
        assert first == state.head.base_step or first == state.head.checkpoints[0].global_step
        assert state.recovery.step_log.base + state.recovery.step_log.length >= state.head.global_step
        at = first
        for number, replay_range in enumerate(state.recovery.replay_ranges):
            assert replay_range.global_from == at or (number == 0 and replay_range.global_from < at)
            at = replay_range.global_to
        assert at == state.head.global_step

    @invariant()
    def the_head_stands_on_what_is_there(self) -> None:
        """The base, and the base of everything that is detached, are versions that stand, or the origin."""
        state = self.world.state
        there = {None, *(each.id for each in state.retention.versions)}
        assert state.head.base in there
        assert {left.base for left in state.head.detached} <= there
        assert not {left.checkpoint.id for left in state.head.detached} & {each.id for each in state.head.checkpoints}

    @invariant()
    def no_step_run_again_differs(self) -> None:
        """The simulated worker is exact, so no divergence is ever journaled."""
        assert not any(isinstance(event, kinds.DivergenceDetected) for event in self.world.journal)

    def teardown(self) -> None:
        """Whatever was, once trouble is over everything is trained, and the journal folds to the same again."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.spoiled.clear()
        world.free_bytes = ROOMY
        self.model = "tiny"
        meaning = world.state.head.weight_settings
        if meaning is not None:
            self.model = meaning.model.path
        self._configure()
        world.start()
        world.refused(commands.Resume())
        for job in sorted(job for job, _ in world.state.outcomes.failed.items()):
            world.execute(commands.Retry(job=job))
        for job in [job.id for job in world.state.queue if job.status == "held"]:
            world.execute(commands.ReleaseJob(job=job))
        world.run()
        state = world.state
        assert state.daemon.status == "idle", (state.daemon.status, state.daemon.hold)
        assert state.disk.full is None
        assert not state.training.in_progress
        assert not len(state.queue)
        assert not len(state.outcomes.failed)
        assert not len(state.outcomes.rejections)
        assert not world.lost
        world.check_timeline()
        self._same_again()

    def _same_again(self) -> None:
        events = self.world.journal
        records = [
            Record(seq=seq, at=f"t{seq}", durable=0, prev="", event=decode(encode(event)), crc="")
            for seq, event in enumerate(events, 1)
        ]
        whole = Folded()
        middle = len(records) // 2
        halves = Folded()
        for record in records:
            whole = fold(whole, record)
            if record.seq <= middle:
                halves = fold(halves, record)
        assert seen(whole.state) == seen(self.world.state)
        halves = reread(halves)
        for record in records[middle:]:
            halves = fold(halves, record)
        assert replace(halves, state=seen(halves.state)) == replace(whole, state=seen(whole.state))


def _any(number: int, names: list[str]) -> str | None:
    return names[-1 - number % len(names)] if names else None


def encoded(state: Any) -> bytes:
    """A state in bytes, to see any change in it, deep inside as well."""
    from projections import snapshot

    return snapshot._encoder.encode(seen(state))


def reread(folded: Folded) -> Folded:
    """A fold through the disk."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "snapshot.json"
        write_snapshot(path, Snapshot(1, "crc", 1, 0, reducer_version(), folded))
        snapshot = read_snapshot(path)
    assert snapshot is not None
    assert replace(snapshot.folded, state=seen(snapshot.folded.state)) == replace(folded, state=seen(folded.state))
    return snapshot.folded


Life.TestCase.settings = settings(
    max_examples=250,
    stateful_step_count=50,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
TestLife = Life.TestCase
