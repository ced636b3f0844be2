"""What must hold at the end of a life in which processes were killed, and the calm life that it is held against."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from random import Random

from cli.home.paths import Home
from core.state import State
from events import kinds
from events.codec import Record, decode_record
from events.kinds import SamplesGenerated
from events.values import Number
from journal import START, follow
from tests.crash.homes import log_of, state_of, trained
from tests.crash.life import Life

Step = tuple[str, int, int, Number, Number, float, int]
"""Job, step, epoch, loss, gradient norm, learning rate, tokens."""


def records_of(home: Home) -> list[Record]:
    """Every record of the journal."""
    return follow(home.journal, decode_record, START)[0]


def check(home: Home) -> State:
    """What must hold after any number of kills, once the daemon has come to its end.

    Every step of every job is in the committed timeline exactly once and in order; steps that were run again gave
    the same bits; nothing waits, nothing failed; what was refused is back with its report; no leftover files.
    """
    _check_steps(home)
    samples_of(home)
    _check_returned(home)
    _check_leftover_files(home)
    return state_of(home)


def _check_steps(home: Home) -> None:
    state, events = state_of(home), [record.event for record in records_of(home)]
    goals: dict[str, int] = {}
    skipped: set[str] = set()
    trained: set[str] = set()
    for event in events:
        assert not isinstance(event, kinds.DivergenceDetected), f"not the same bits: {event}"
        if isinstance(event, kinds.JobPrepared):
            goals[event.job] = event.plan.steps_total
        elif isinstance(event, kinds.JobTrained):
            trained.add(event.job)
        elif isinstance(event, kinds.JobSkipRequested | kinds.JobSkipped):
            skipped.add(event.job)
    skipped -= trained  # who asks at the last step is late; and a stretch that is run again ends as skipped, too
    timeline = committed_steps(home)
    for job, goal in goals.items():
        steps = [step[1] for _, step in sorted(timeline.items()) if step[0] == job]
        whole = len(steps) if job in skipped else goal
        assert steps == list(range(1, whole + 1)), f"job {job[:12]} was trained as {steps}, to be 1..{whole}"
    assert state.outcomes.counts.trained == len(goals.keys() - skipped)
    moved = any(isinstance(event, kinds.HeadMoved) for event in events)
    assert moved or state.head.global_step == len(timeline)
    assert not state.training.in_progress
    assert not len(state.queue)
    assert not len(state.outcomes.failed)
    assert not len(state.outcomes.rejections)
    assert {path.stem for path in home.data.glob("*.jsonl")} == goals.keys() | skipped


def samples_of(home: Home) -> Mapping[int, tuple[tuple[str, str], ...]]:
    """The answers after each global step that was sampled. No step was sampled twice, unless the head moved back."""
    found: dict[int, tuple[tuple[str, str], ...]] = {}
    for record in records_of(home):
        event = record.event
        if isinstance(event, kinds.HeadMoved):
            found.clear()
        elif isinstance(event, SamplesGenerated):
            assert event.global_step not in found, f"step {event.global_step} was sampled twice"
            found[event.global_step] = tuple((each.prompt_id, each.answer) for each in event.answers)
    return found


def committed_steps(home: Home) -> Mapping[int, Step]:
    """Every global step that is committed, as it was first reached. Each time that it was run, it was the same."""
    reached: dict[int, Step] = {}
    committed: dict[int, Step] = {}
    fresh: set[int] = set()
    for record in records_of(home):
        event = record.event
        if isinstance(event, kinds.StepReached):
            step = (event.job, event.step, event.epoch, event.loss, event.grad_norm, event.learning_rate, event.tokens)
            reached[event.global_step] = step
            fresh.add(event.global_step)
        elif isinstance(event, kinds.CheckpointCommitted):
            for number in sorted(number for number in fresh if number <= event.global_step):
                fresh.discard(number)
                first = committed.setdefault(number, reached[number])
                assert first == reached[number], f"step {number} was {first}, and then {reached[number]}"
    return committed


def _check_returned(home: Home) -> None:
    """Each file that was refused lies in `rejected/` once, next to its report, and nothing else does."""
    events = [record.event for record in records_of(home)]
    rejected = [event.job for event in events if isinstance(event, kinds.JobRejected)]
    moved = {event.job: event.path for event in events if isinstance(event, kinds.RejectedFileMoved)}
    assert len(set(rejected)) == len(rejected)
    assert list(moved) == rejected
    for job, path in moved.items():
        assert hashlib.sha256((home.root / path).read_bytes()).hexdigest() == job, f"{path} is another file"
    files = {path.name for path in home.rejected.iterdir() if not path.name.endswith(".report.json")}
    reports = {path.name for path in home.rejected.iterdir()} - files
    assert reports == {f"{name}.report.json" for name in files}
    # a duplicate may be journaled once more, when the process was killed before the file was moved
    again = {event.name for event in events if isinstance(event, kinds.FileDuplicate)}
    assert files == again | {Path(path).name for path in moved.values()}


def _check_leftover_files(home: Home) -> None:
    state = state_of(home)
    left = {left.checkpoint.id for left in state.head.detached}
    assert _names(home.checkpoints) == {checkpoint.id for checkpoint in state.head.checkpoints} | left
    assert not [path for lane in ("", "high", "low") for path in (home.inbox / lane).glob("*.jsonl")]
    assert not _names(home.data / ".arriving")
    assert not home.tokens.exists() or not _names(home.tokens)  # nothing is in progress any more
    views = {path.name for path in (home.status, home.snapshot, home.machine, home.machine_samples, home.hooks)}
    assert _names(home.status.parent) <= views
    assert _names(home.run) <= {home.daemon_lock.name, home.backup_lock.name, home.usual.name, "monitor-token"}
    assert state.daemon.status == "off"


def _names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def check_given(life: Life) -> None:
    """Every file that came was accepted once, as what it is; every one that had to be returned is back."""
    events = [record.event for record in records_of(life.home)]
    accepted = [event for event in events if isinstance(event, kinds.FileEnqueued)]
    refused = {event.job for event in events if isinstance(event, kinds.JobRejected)}
    assert len({event.job for event in accepted}) == len(accepted)
    came = {event.job: (event.name, event.priority) for event in accepted if event.job not in refused}
    given = life.given | {job: put for job, put in life.perhaps.items() if job in came}
    wrong = [(came.get(job), given.get(job)) for job in came.keys() | given.keys() if came.get(job) != given.get(job)]
    assert not wrong, f"accepted, and given: {wrong}"
    assert {path.name for path in life.home.rejected.glob("*.jsonl")} == set(life.returned)


def calm_twin(tortured: Life, root: Path) -> Home:
    """A home that trains the same files in the same order, from the same lanes, and is left alone."""
    home, events = tortured.home, [record.event for record in records_of(tortured.home)]
    settings = next(event.settings for event in events if isinstance(event, kinds.AttemptStarted))
    order = list(dict.fromkeys(event.job for event in events if isinstance(event, kinds.JobTrained)))
    came = {event.job: event for event in events if isinstance(event, kinds.FileEnqueued)}
    choose = Random(0)
    if tortured.fake:
        life = Life.faked(root, choose)
        life.waited.touch()
    else:
        life = Life.real(root, choose, method=settings.method, precision=settings.training.precision)
    life.start(until_idle=False)
    for number, job in enumerate(order):
        # One ahead of the training, and only after the one before has begun, so that no lane overtakes another.
        assert number == 0 or life.until(life.happened(kinds.AttemptStarted, number)), log_of(life.home)
        life.put(came[job].name, home.data_file(job).read_bytes(), came[job].priority)
        assert life.until(life.happened(kinds.FileEnqueued, number + 1)), log_of(life.home)
    assert life.until(life.happened(kinds.JobTrained, len(order)), 600.0), log_of(life.home)
    assert life.command("stop") == 0
    assert life.ended() == 0, log_of(life.home)
    life.waited.unlink(missing_ok=True)
    check(life.home)
    return life.home


def assert_same(home: Home, calm: Home) -> None:
    """Bit for bit: every step that was committed, and every file of the head."""
    steps, wanted = committed_steps(home), committed_steps(calm)
    differing = [number for number in steps.keys() | wanted.keys() if steps.get(number) != wanted.get(number)]
    assert not differing, f"steps {sorted(differing)[:10]} are not those of the calm run"
    assert trained(home) == trained(calm)
    samples, quiet = samples_of(home), samples_of(calm)
    assert quiet, "nothing was sampled"
    assert {step: quiet[step] for step in samples.keys() & quiet.keys()} == {
        step: samples[step] for step in samples.keys() & quiet.keys()
    }
