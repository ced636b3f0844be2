"""What must hold, whatever happened: kept next to the simulation, and held against what is found on its disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from cli.home.paths import Home
from cli.home.snapshot_reader import witnesses
from core.evolve import evolve
from core.state import State
from events import kinds, messages
from events.codec import Record, decode_record, encode, kind_of
from events.evaluation import ResultsFile
from events.kinds import AnyEvent
from gpu.artifacts.artifact import Artifact, CheckpointDirectory, find_problem
from gpu.artifacts.backup import BackupDirectory
from gpu.artifacts.version_manifest import VersionDirectory
from gpu.evaluation.results import read_results
from journal import START, Journal, Transaction, Verdict, follow, survey
from journal.durable import is_temporary, read_file
from journal.errors import NoSpace
from journal.segments import TORN_DIRECTORY
from projections.fold import fold
from projections.progress import Folded
from projections.snapshot import read_snapshot
from projections.status import read_status
from projections.status_view import status_view
from tests.harness.fake_disk import Killed, PowerCut
from tests.harness.fake_worker import UNTRAINED, train_step

if TYPE_CHECKING:
    from tests.simulation.world import World


KEPT_IN_SNAPSHOTS = tuple(name for name in State.__struct_fields__ if name not in {"queue", "recovery"})
"""Slices that are compared with a fresh replay; of `recovery`, all but the step log, which shares a list."""


COUNTED = (
    kinds.JobMoved,
    kinds.JobHeld,
    kinds.JobReleased,
    kinds.JobRemoved,
    kinds.ConsolidationAborted,
    kinds.VersionPublished,
    kinds.HeadMoved,
    kinds.CheckpointRestored,
    kinds.VersionDeleted,
    kinds.BackupCreated,
    kinds.JobEvaluated,
    kinds.VersionEvaluated,
    kinds.VersionEvaluationFailed,
    kinds.VersionHeld,
    kinds.VersionPromoted,
)


def passes_of(steps: list[int]) -> list[int]:
    """How far each pass over a file came: one ends where the next begins with step 1."""
    begins = [*(at for at, step in enumerate(steps) if step == 1), len(steps)]
    return [end - begin for begin, end in pairwise(begins)]


class InvariantBroken(AssertionError):
    """A promise was not kept."""


def require(holds: bool, promise: str, *seen: Any) -> None:
    if not holds:
        raise InvariantBroken(promise + "".join(f"\n    {each}" for each in seen))


class Rotted(Exception):
    """A bit flipped in the journal, and reading it whole shows that: the story ends here."""


class Invariants:
    """What was acknowledged, what may or may not have been kept, and which excuses there are."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.acknowledged: dict[int, bytes] = {}
        """seq → the event, as it was when an append returned."""
        self.doubtful: list[tuple[bytes, ...]] = []
        """Transactions whose append was interrupted: each is there whole, or not at all."""
        self.rotten: set[str] = set()
        """Paths in which a bit flipped."""
        self.facts: list[messages.AnyFact] = []
        self.running_attempt: int | None = None
        self.excuses: set[str] = set()
        self.counts: dict[str, int] = {}

    def struck(self, kind: str) -> None:
        self.excuses.add(kind)
        self.count(kind)

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    @contextmanager
    def open(self, *, segment_bytes: int) -> Iterator[None]:
        """For the time of a block, every append of anybody is written down here before and after; the journal begins
        a new segment after so many bytes."""
        original, invariants = Transaction.append, self
        defaults = getattr(Journal.open, "__func__").__kwdefaults__  # noqa: B009
        usual = defaults["segment_bytes"]
        defaults["segment_bytes"] = segment_bytes

        def append(transaction: Transaction[Record], events: Sequence[bytes], *, at: str) -> list[Record]:
            try:
                records = original(transaction, events, at=at)
            except NoSpace:
                raise  # taken back, it says: then nothing of it may be there
            except (OSError, Exception, Killed, PowerCut):
                invariants.doubtful.append(tuple(bytes(event) for event in events))
                raise
            for record in records:
                invariants.acknowledged[record.seq] = encode(record.event)
                if isinstance(record.event, COUNTED):
                    invariants.count(kind_of(record.event))
                starts = kinds.AttemptStarted | kinds.ConsolidationStarted | kinds.VersionEvaluationStarted
                if isinstance(record.event, starts):
                    invariants.running_attempt = record.event.attempt
            return records

        setattr(Transaction, "append", append)  # noqa: B010
        try:
            yield
        finally:
            setattr(Transaction, "append", original)  # noqa: B010
            defaults["segment_bytes"] = usual

    # -- after each crash

    def check(self) -> tuple[State, list[Record]]:
        """Everything that must hold now, after whatever crash. Returns what the journal says."""
        home = self.world.home(self.world.inspector())
        if self._is_rotten(str(home.journal)):
            whole = survey(home.journal, witnesses(home), storage=home.storage).verdict is Verdict.CLEAN
            # in its very last transaction, with no witness left, rot cannot be told from an append that was cut off
            if not whole or home.storage.names(home.journal / TORN_DIRECTORY):
                raise Rotted
        records, _ = follow(home.journal, decode_record, START, storage=home.storage)
        self._check_journal(records)
        state, timeline = self._check_events([record.event for record in records])
        self._check_checkpoints(home, state, timeline)
        self._check_files(home, [record.event for record in records])
        return state, records

    def _check_journal(self, records: list[Record]) -> None:
        found = {record.seq: encode(record.event) for record in records}
        require(list(found) == list(range(1, len(found) + 1)), "records are numbered without a gap", list(found))
        for seq, event in self.acknowledged.items():
            require(found.get(seq) == event, f"acknowledged record {seq} is there as it was", event, found.get(seq))
        transaction: list[Record] = []
        doubtful = list(self.doubtful)
        for record in records:
            transaction.append(record)
            if record.more:
                continue
            if transaction[0].seq not in self.acknowledged and transaction[0].seq > 1:
                events = tuple(encode(each.event) for each in transaction)
                require(events in doubtful, "what was never acknowledged is there whole, once", events, doubtful)
                doubtful.remove(events)
            transaction = []
        require(not transaction, "no half of a transaction is believed")

    def _check_events(self, events: list[AnyEvent]) -> tuple[State, list[tuple[str, int]]]:
        """Every event is legal; each file is accepted and ended once; the timeline has each step once, in order."""
        state = State()
        timeline: list[tuple[str, int]] = []
        reached: list[tuple[str, int]] = []
        stood: dict[str, list[tuple[str, int]]] = {}
        self.moved = False
        accepted: set[str] = set()
        ended: dict[str, str] = {}
        for event in events:
            before, state = state, evolve(state, event)
            match event:
                case kinds.FileEnqueued():
                    require(
                        event.retrain or event.job not in accepted,
                        "a file is accepted once, or again when asked",
                        event,
                    )
                    require(event.job not in accepted or event.job in ended, "once is over before again begins", event)
                    accepted.add(event.job)
                    ended.pop(event.job, None)
                case kinds.RejectedFileMoved():  # it is its owner's again, who may bring it back
                    accepted.discard(event.job)
                    ended.pop(event.job, None)
                case kinds.JobRemoved():
                    require(event.job not in ended, "a job ends once", event, ended.get(event.job))
                    ended[event.job] = "JobRemoved"
                case kinds.AttemptStarted():
                    require(
                        before.queue.get(event.job) is not None or before.training.current is not None,
                        "it was there",
                        event,
                    )
                    reached = []
                case kinds.StepReached():
                    reached.append((event.job, event.step))
                case kinds.CheckpointCommitted():
                    count = event.global_step - before.head.global_step
                    timeline += reached[:count]
                    reached = reached[count:]
                    stood[event.checkpoint] = list(timeline)
                case kinds.VersionPublished():
                    stood[event.version] = list(timeline)
                case kinds.HeadMoved():
                    timeline = list(stood.get(event.checkpoint or event.version or "", ()))
                    self.moved = True
                case kinds.CheckpointQuarantined():
                    timeline = timeline[: state.head.global_step]
                case kinds.DivergenceDetected():
                    raise InvariantBroken(f"a step that is run again gives the same bits: {event}")
                case kinds.JobTrained() | kinds.JobSkipped() | kinds.JobRejected():
                    job = before.job(event.job)
                    if job is not None and job.until is None:
                        require(job.status != "held" or isinstance(event, kinds.JobSkipped), "a held job waits", event)
                        require(event.job not in ended, "a job ends once", event, ended.get(event.job))
                        ended[event.job] = type(event).__name__
            require(len(timeline) == state.head.global_step, "the committed step is the length of the timeline", event)
        self.ended = ended
        steps: dict[str, list[int]] = {}
        for name, step in timeline:
            steps.setdefault(name, []).append(step)
        self.stood = stood
        for name, found in steps.items() if not self.moved else ():  # what was left after may be trained again
            passes = passes_of(found)
            steps_of = [step for length in passes for step in range(1, length + 1)]
            require(found == steps_of, f"each step of {name[:8]} is trained once a pass, in order", found)
        return state, timeline

    def _check_checkpoints(self, home: Home, state: State, timeline: list[tuple[str, int]]) -> None:
        """No committed checkpoint, no version and no backup is lost; each holds exactly what was trained up to it."""
        head = state.head.checkpoint
        fetched = head.id if state.head.pending_restore is not None and head is not None else None
        require(
            timeline[: state.head.base_step] == self.stood.get(state.head.base or "", []),
            "the head stands on its version",
        )
        for checkpoint in (*state.head.checkpoints, *(left.checkpoint for left in state.head.detached)):
            if checkpoint.id == fetched:
                continue
            directory = home.checkpoints / checkpoint.id
            if self._is_rotten(str(directory)):
                continue
            artifact: Artifact[Any] = CheckpointDirectory(directory, home.storage)
            problem = find_problem(artifact, checkpoint.manifest_sha256, every_byte=True)
            require(problem is None, f"committed {checkpoint.id} is there whole", problem)
            held = read_file(directory / "weights", storage=home.storage).decode()
            require(held == self._weights_of(checkpoint.id), f"{checkpoint.id} holds what was trained up to it")
        for version in state.retention.versions:
            directory = home.versions / version.id
            if self._is_rotten(str(directory)):
                continue
            artifact = VersionDirectory(directory, home.storage)
            problem = find_problem(artifact, version.manifest_sha256, every_byte=True)
            require(problem is None, f"published {version.id} is there whole", problem)
            held = read_file(directory / "weights", storage=home.storage).decode()
            require(held == self._weights_of(version.id), f"{version.id} holds what was trained up to it")
        for results in self._results(state):
            path = home.evaluations / f"{results.id}.json"
            if not self._is_rotten(str(path)):
                found = read_results(home.root, results, storage=home.storage)
                require(found is not None, f"the results {results.id} are there whole")
        for copy in state.retention.backups:
            directory = home.backups / copy.id
            if not self._is_rotten(str(directory)):
                problem = find_problem(BackupDirectory(directory, home.storage), copy.manifest_sha256, every_byte=True)
                require(problem is None, f"{copy.id} is there whole", problem)

    def _results(self, state: State) -> list[ResultsFile]:
        return [*(each.results for each in state.evaluations.evaluated), *state.evaluations.jobs]

    def _weights_of(self, name: str) -> str:
        weights = UNTRAINED
        for job, step in self.stood[name]:
            weights = train_step(weights, job, step)
        return weights

    def _check_files(self, home: Home, events: list[AnyEvent]) -> None:
        """The bytes of every accepted file are in keepstep's hands: under their hash, on the way there, or rejected."""
        storage = home.storage
        arriving = home.data / ".arriving"
        wanted = [home.data_file(event.job) for event in events if isinstance(event, kinds.FileEnqueued)]
        elsewhere: set[str] = set()
        if any(not storage.exists(path) for path in wanted):
            found = [home.rejected / name for name in storage.names(home.rejected)]
            if storage.exists(arriving):
                for name in storage.names(arriving):
                    found += [arriving / name / file for file in storage.names(arriving / name)]
            elsewhere = {hashlib.sha256(read_file(path, storage=storage)).hexdigest() for path in found}
        for path in wanted:
            if self._is_rotten(str(path)):
                continue
            if storage.exists(path):
                digest = hashlib.sha256(read_file(path, storage=storage)).hexdigest()
                require(digest == path.stem, f"{path.name} holds what it is named for")
            elif not self._is_rotten(str(arriving)):
                require(path.stem in elsewhere, f"accepted {path.stem[:8]} is not lost")

    def _is_rotten(self, path: str) -> bool:
        return any(rotten.startswith(path) for rotten in self.rotten)

    # -- when trouble is over

    def check_end(self) -> None:
        """All accepted files are trained, nothing is left lying, and the views say what the journal says."""
        state, records = self.check()
        home = self.world.home(self.world.inspector())
        require(state.attempts.current is None, "nothing runs any more")
        require(not state.training.in_progress, "nothing is half trained", state.training.in_progress)
        require(not len(state.queue), "nothing waits", list(state.queue))
        require(state.consolidation.request is None, "no consolidation is wanted", state.consolidation.request)
        require(not state.evaluations.pending, "no evaluation is wanted", state.evaluations.pending)
        require(all(held.reason for held in state.evaluations.held), "a held version says why", state.evaluations.held)
        require(state.head.pending_restore is None, "the head is in its place", state.head.pending_restore)
        for record in records:
            if isinstance(record.event, kinds.FileEnqueued):
                rejected = home.storage.exists(home.rejected) and not home.storage.exists(
                    home.data_file(record.event.job)
                )
                require(record.event.job in self.ended or rejected, "every accepted file came to an end", record.event)
        for job, end in self.ended.items():
            if end == "JobTrained" and not self.moved and not self._is_rotten(str(home.data_file(job))):
                lines = len(read_file(home.data_file(job), storage=home.storage).split())
                _, timeline = self._check_events([record.event for record in records])
                trained = [step for name, step in timeline if name == job]
                require(passes_of(trained)[-1] == lines, f"every row of {job[:8]} is trained once", trained, lines)
        self._check_leftover_files(home, state)
        self._check_views(home, records)

    def _check_leftover_files(self, home: Home, state: State) -> None:
        storage = home.storage
        named = {checkpoint.id for checkpoint in state.head.checkpoints} | {
            left.checkpoint.id for left in state.head.detached
        }
        require(set(storage.names(home.checkpoints)) == named, "only named checkpoints are left", named)
        named = {version.id for version in state.retention.versions}
        require(set(storage.names(home.versions)) == named, "only named versions are left", named)
        named = {f"{each.id}.json" for each in self._results(state)}
        require(set(storage.names(home.evaluations)) >= named, "all named results are left", named)
        named = {each.id for each in state.retention.backups}
        require(set(storage.names(home.backups)) == named, "only named backups are left", named)
        arriving = home.data / ".arriving"
        require(not storage.exists(arriving) or not storage.names(arriving), "nothing is left on its way")
        for directory in (home.root, home.status.parent, home.rejected, home.journal, home.data, home.quarantine):
            left = [name for name in storage.names(directory) if is_temporary(name)]
            require(not left, f"no unfinished file is left in {directory}", left)
        for lane in (home.inbox, home.inbox / "high", home.inbox / "low"):
            left = [name for name in storage.names(lane) if name.startswith(("file", "added"))]
            require(not left, f"no file is left in {lane}", left)
        known = {"daemon.lock", "backup.lock", "usual.json"}
        require(set(storage.names(home.run)) <= known, "no socket is left", storage.names(home.run))

    def _check_views(self, home: Home, records: list[Record]) -> None:
        folded, at_snapshot = Folded(), Folded()
        snapshot = read_snapshot(home.snapshot, storage=home.storage)
        for record in records:
            folded = fold(folded, record)
            if snapshot is not None and record.seq == snapshot.seq:
                at_snapshot = folded
        shown = read_status(home.status, storage=home.storage)
        require(shown is not None, "there is a status")
        assert shown is not None
        beat = shown.daemon.heartbeat_at
        fresh = status_view(folded, seq=records[-1].seq, crc=records[-1].crc, heartbeat_at=beat)
        require(shown == fresh, "the status is what a fresh replay makes of the journal", shown, fresh)
        require(snapshot is not None, "there is a snapshot")
        assert snapshot is not None
        for name in KEPT_IN_SNAPSHOTS:
            kept, made = getattr(snapshot.folded.state, name), getattr(at_snapshot.state, name)
            require(kept == made, f"the snapshot's {name} is what a fresh replay makes", kept, made)
        for name in ("replay_ranges", "quarantined"):
            kept, made = getattr(snapshot.folded.state.recovery, name), getattr(at_snapshot.state.recovery, name)
            require(kept == made, f"the snapshot's {name} is what a fresh replay makes", kept, made)
