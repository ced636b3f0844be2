"""Whether what was trained under faults is what would have been trained without, bit for bit.

Up to the first step that was cut in parts, left out, or skipped, a home that nobody disturbs trains the same files in
the same order and consolidates at the same places: every step and every version must be the same. After it no calm
home can come to the same weights; there everything, from each base on, is run once more as the journal has it, with
its splits and what was skipped: every loss, every gradient norm, what went into each version, and the head.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple

import msgspec

from cli.commands.lineage import read_lineage
from cli.commands.rerun import rerun_ranges
from cli.home.paths import Home
from cli.home.subprocesses import ask
from events import kinds
from events.event import Event
from events.kinds import BatchSkipped, MicrobatchSplit
from gpu.ipc.protocol import Refusal, Reran, Rerun, RerunRange
from tests.crash.checks import committed_steps
from tests.crash.homes import log_of, state_of, trained
from tests.drills.soak.life import SoakLife

MARKS = (MicrobatchSplit, BatchSkipped, kinds.JobSkipRequested, kinds.JobSkipped, kinds.JobFailed)
"""What no home that is left alone would do."""

PATIENCE_S = 600.0
"""For one file, or one version, that nobody disturbs."""

Say = Callable[[str], None]


class Compared(NamedTuple):
    """What was held side by side, and where it differs."""

    steps: int
    versions: int
    whole: bool
    """Whether that is everything, up to the head."""
    wrong: list[str]


# -- a calm home ----------------------------------------------------------------------------------------------------


def same_as_calm(home: Home, events: Sequence[Event], root: Path, say: Say) -> Compared:
    """Hold `home` against one that trains the same and is left alone."""
    marks = [index for index, event in enumerate(events) if isinstance(event, MARKS)]
    deeds = _deeds(events[: marks[0]] if marks else events, whole=not marks)
    if not deeds:
        return Compared(0, 0, whole=False, wrong=["a step was cut or left out before the first version"])
    say(f"the same {sum(isinstance(each, kinds.JobTrained) for each in deeds)} files in a home that is left alone")
    calm = _calm(home, events, deeds, root)
    last = deeds[-1]
    until = last.global_step if isinstance(last, kinds.JobTrained) else _steps_before(deeds, last)
    mine, its = committed_steps(home), committed_steps(calm)
    wrong = [
        f"step {n} is {mine.get(n)}, and calm {its.get(n)}" for n in range(1, until + 1) if mine.get(n) != its.get(n)
    ]
    made = [deed.version for deed in deeds if isinstance(deed, kinds.VersionPublished)]
    others = [each for each in made if _weights(home.versions / each) != _weights(calm.versions / each)]
    wrong += [f"{version} has other weights" for version in others]
    if not marks and state_of(home).head.checkpoint is not None and _head(home) != _head(calm):
        wrong.append("the head has other weights")
    return Compared(until, len(made), whole=not marks, wrong=wrong)


Deed = kinds.JobTrained | kinds.VersionPublished


def _deeds(events: Sequence[Event], *, whole: bool) -> list[Deed]:
    """Files and versions in their order; if it is not the whole, up to the last version: the weights after it are
    not kept."""
    deeds = [event for event in events if isinstance(event, Deed)]
    while not whole and deeds and not isinstance(deeds[-1], kinds.VersionPublished):
        deeds.pop()
    return deeds


def _steps_before(deeds: Sequence[Deed], last: Deed) -> int:
    trained = [deed for deed in deeds[: deeds.index(last)] if isinstance(deed, kinds.JobTrained)]
    return trained[-1].global_step


def _calm(home: Home, events: Sequence[Event], deeds: Sequence[Deed], root: Path) -> Home:
    names = {event.job: event.name for event in events if isinstance(event, kinds.FileEnqueued)}
    rates: dict[str, float] = {}
    committed = set()
    for event in events:
        if isinstance(event, kinds.CheckpointCommitted):
            committed.add(event.job)
        elif isinstance(event, kinds.AttemptStarted) and event.job not in committed:
            rates[event.job] = event.settings.training.learning_rate  # the next attempt reads keepstep.toml again
    life = SoakLife.at(root, Random(0))
    life.start(until_idle=False)
    trained = published = 0
    for deed in deeds:
        if isinstance(deed, kinds.VersionPublished):
            assert life.command("consolidate") == 0, log_of(life.home)
            published += 1
            assert life.until(partial(_has, life, kinds.VersionPublished, published), PATIENCE_S), log_of(life.home)
            continue
        life.learn_at(rates[deed.job])
        life.put(names[deed.job], home.data_file(deed.job).read_bytes(), "normal")
        trained += 1
        assert life.until(partial(_has, life, kinds.JobTrained, trained), PATIENCE_S), log_of(life.home)
    assert life.command("stop") == 0
    assert life.ended() == 0, log_of(life.home)
    return life.home


def _has(life: SoakLife, kind: type[Event], times: int) -> bool:
    return life.count(kind) >= times


def _head(home: Home) -> dict[str, str]:
    """Without the file that names where the base lies."""
    return {name: sha256 for name, sha256 in trained(home).items() if name != "adapter_config.json"}


def _weights(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.glob("*.safetensors")}


# -- the journal run again ------------------------------------------------------------------------------------------


def same_as_journaled(home: Home, say: Say) -> Compared:
    """Run everything that went into the head once more, from each base on, as the journal has it."""
    state, steps, wrong = state_of(home), 0, list[str]()
    recorded = committed_steps(home)
    ways = [(each.id, _of_version(home, each.id)) for each in state.retention.versions]
    if state.head.checkpoint is not None:
        ways.append(("the head", home.checkpoints / state.head.checkpoint.id))
    for name, committed in ways:
        found = read_lineage(home, None if name == "the head" else name)
        begin = min(part.global_from for part in found.parts if part.base == found.parts[-1].base)
        end = found.parts[-1].global_to
        say(f"steps {begin + 1} to {end} again, for {name}")
        with tempfile.TemporaryDirectory(prefix="keepstep-soak-") as scratch:
            ran = _again(home, list(rerun_ranges(found.parts, begin)), Path(scratch))
            for number, loss, norm in ran.bits:
                steps += 1
                if (recorded[number][3], recorded[number][4]) != (loss, norm):
                    wrong.append(f"step {number} gave loss {loss}, and {recorded[number][3]} when it was trained")
            if _weights(Path(scratch) / ran.checkpoint) != _weights(committed):
                wrong.append(f"{name}: other weights, or another state of the optimizer")
    return Compared(steps, len(state.retention.versions), whole=True, wrong=wrong)


def _of_version(home: Home, version: str) -> Path:
    """The checkpoint that a version was made of, in the backup before it. (Of an attempt that was broken off there may
    be one more; the last is the one that counts.)"""
    backup = [each for each in state_of(home).retention.backups if each.reason == f"before {version}"][-1]
    return home.backups / backup.id / backup.held.checkpoint.id


def _again(home: Home, order: Sequence[RerunRange], scratch: Path) -> Reran:
    asked = Rerun(home=str(home.root), scratch=str(scratch), checkpoint=None, rerun_ranges=tuple(order))
    said = ask("gpu.training.rerun", msgspec.json.encode(asked).decode(), otherwise="look at the traceback")
    answer = msgspec.json.decode(said, type=Reran | Refusal)
    assert isinstance(answer, Reran), answer
    return answer
