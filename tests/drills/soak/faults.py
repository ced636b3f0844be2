"""Everything that is done to a life in a soak: a table, one row a fault. Another one is another row.

Each fault is begun by one function, and is over when what it leads to is journaled. A fault that nobody met (the worker
never came to that point, the file ended first) is counted as missed, and withdrawn.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import psutil

from events import kinds
from events.event import Event
from events.kinds import BatchSkipped, ConfigFixed, ConfigRefused, MicrobatchSplit
from events.values import Failure
from tests.drills.soak.life import SoakLife

Costs = Literal["nothing", "worker", "daemon"]
"""What does not live through it."""

MEETS_S = 30.0
"""In which a worker comes to any point of a file's life, if there is a worker and a file."""

NOTICED_S = 100.0
"""The longest deadline, twice as long after a failure, the stacks, the kill."""

EVALUATED_STEPS = 5
"""How many lie between two evaluations, in the homes of `tests/crash`."""

FAR_STEPS = 4
"""A fault of `gpu/runtime/faults.py` is for a step that far ahead: it must be known before the step is begun."""

WORKER_ENDS: tuple[type[Event], ...] = (
    kinds.AttemptFailed,
    kinds.AttemptInterrupted,
    kinds.ConsolidationAborted,
)


class Fault(NamedTuple):
    """A row of the table."""

    name: str
    weight: float
    """How often it is drawn, next to the others."""
    costs: Costs
    begin: Callable[[SoakLife], bool]
    """Does it; whether it could be done."""
    ends_with: Sequence[type[Event]]
    """What is journaled when it was noticed; nothing: there is nothing to notice."""
    causes: frozenset[Failure] = frozenset()
    """What attempts may fail of because of it."""
    marks: bool = False
    """Whether a step comes out otherwise for it, or not at all."""


# -- through the worker's own hands ----------------------------------------------------------------------------------

POINTS = ("prepare_asked", "loading", "loaded", "evaluated_rows", "step", "step", "step", "file_written",
          "before_manifest", "staging_fsynced", "renamed", "before_report")  # fmt: skip
"""Where a worker dies; most of a file's life are steps."""


def _at(points: Sequence[str], what: str) -> Callable[[SoakLife], bool]:
    """Have the worker that comes to one of these points next do that."""

    def begin(life: SoakLife) -> bool:
        life.order(life.choose.choice(points), what)
        return _met(life)

    return begin


def _at_a_step(fault: str) -> Callable[[SoakLife], bool]:
    """The same with a fault of `gpu/runtime/faults.py`."""

    def begin(life: SoakLife) -> bool:
        life.order("step", f"fault:{fault}:{life.now.step + FAR_STEPS}")
        return _met(life)

    return begin


def _in_an_evaluation(fault: str) -> Callable[[SoakLife], bool]:
    """The same in the next evaluation, whichever step it is after."""

    def begin(life: SoakLife) -> bool:
        at = life.now.step
        life.order("step", "fault:" + ",".join(f"{fault}:{step}" for step in range(at + 1, at + 2 * EVALUATED_STEPS)))
        return _met(life)

    return begin


def _in_a_consolidation(points: Sequence[str], what: str) -> Callable[[SoakLife], bool]:
    def begin(life: SoakLife) -> bool:
        life.order(life.choose.choice(points), what)
        if not _consolidate(life):
            life.withdraw()
            return False
        return _met(life)

    return begin


def _met(life: SoakLife) -> bool:
    met = life.wait(life.obeyed, MEETS_S)
    life.withdraw()
    return met or life.obeyed()


# -- from outside ---------------------------------------------------------------------------------------------------


def _kill_worker(life: SoakLife) -> bool:
    return life.runs() and life.kill_worker()


def _stop_worker_for_good(life: SoakLife) -> bool:
    return life.state.attempts.current is not None and _signal(life.worker(), signal.SIGSTOP)


def _stop_worker_for_a_while(life: SoakLife) -> bool:
    worker = life.worker()
    if not _signal(worker, signal.SIGSTOP):
        return False
    life.spend(life.choose.uniform(0.5, 2.0))
    return _signal(worker, signal.SIGCONT)


def _signal(process: psutil.Process | None, number: signal.Signals) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        if process is not None:
            process.send_signal(number)
            return True
    return False


def _kill_daemon(life: SoakLife) -> bool:
    return life.kill_daemon()


def _kill_daemon_and_worker(life: SoakLife) -> bool:
    life.kill_worker()
    return life.kill_daemon()


def _stop_daemon_for_a_while(life: SoakLife) -> bool:
    """Longer than a step may take. Nothing is asked of it meanwhile: anyone who waits for it would wait in vain."""
    life.daemon.send_signal(signal.SIGSTOP)
    life.pass_by(life.choose.uniform(1.0, 9.0))
    life.daemon.send_signal(signal.SIGCONT)
    return True


def _set_the_clock(life: SoakLife) -> bool:
    """A day back; and, next time, a day ahead."""
    if life.clock.exists():
        life.clock.unlink()
    else:
        life.clock.touch()
    return True


def _take_memory(life: SoakLife) -> bool:
    """And give it back when that was noticed."""
    before = len(life.look())
    life.memory.touch()
    life.wait(lambda: life.seen([kinds.MemoryLow], before), MEETS_S)
    life.spend(life.choose.uniform(0.0, 4.0))
    life.memory.unlink()
    return True


# -- what people do -------------------------------------------------------------------------------------------------


def _command(*words: str) -> Callable[[SoakLife], bool]:
    return lambda life: life.command(*words) == 0


def _consolidate(life: SoakLife) -> bool:
    return life.command("consolidate", "--after-current") == 0


def _pause(life: SoakLife) -> bool:
    if life.command("pause") != 0:
        return False
    life.spend(life.choose.uniform(0.0, 3.0))
    return life.command("resume") == 0


def _bad_file(life: SoakLife) -> bool:
    life.put_bad()
    return True


def _same_file_again(life: SoakLife) -> bool:
    if not life.count(kinds.JobTrained):
        return False
    life.put_again()
    return True


def _other_rate(life: SoakLife) -> bool:
    life.learn_at(life.choose.choice([0.001, 0.0009, 0.0008]))
    return True


def _edit(before: str, now: str, noticed: type[Event]) -> Callable[[SoakLife], bool]:
    """Edited while the daemon runs; undone when the daemon has noticed it."""

    def begin(life: SoakLife) -> bool:
        since = len(life.look())
        life.edit(before, now)
        life.wait(lambda: life.seen([noticed], since), MEETS_S)
        life.spend(life.choose.uniform(0.0, 3.0))
        life.advice()
        return True

    return begin


# -- the table ------------------------------------------------------------------------------------------------------

DEATHS: Mapping[str, tuple[str, Failure]] = {
    "worker killed by SIGKILL": ("SIGKILL", "killed"),
    "worker killed by SIGSEGV": ("segv", "code"),
    "worker killed by SIGABRT": ("SIGABRT", "code"),
    "worker ends itself with `os._exit(7)`": ("exit", "code"),
    "worker dies of an error of the GPU driver": ("driver", "driver"),
    "socket that sends garbage": ("garbage", "code"),
}
"""Trouble, and what it is called."""

STUCK: Mapping[str, tuple[str, str]] = {
    "worker stuck in a step": ("step", "hang"),
    "worker stuck in a step, in native code": ("step", "native"),
    "worker stuck in a save": ("staging_fsynced", "hang"),
    "worker stuck in loading": ("loading", "hang"),
    "worker stuck in an evaluation": ("evaluated_rows", "hang"),
}
"""Point and trouble."""

SHORT_OF_MEMORY: Mapping[str, tuple[str, frozenset[Failure]]] = {
    "out of memory in a forward pass": ("forward", frozenset()),
    "out of memory in a backward pass": ("backward", frozenset()),
    "out of memory within the optimizer": ("update", frozenset({"out_of_memory"})),
}
"""The fault of `gpu/runtime/faults.py`, and what an attempt fails of for it."""

EVALUATIONS: Mapping[str, str] = {
    "out of memory in an evaluation": "evaluation",
    "validation loss that is no number": "nan_evaluation",
}
"""What changes nothing of what is trained."""

NUMBERS: Mapping[str, tuple[str, float]] = {
    "loss that is no number": ("nan", 0.7),
    "gradient that is no number": ("nan_gradient", 0.3),
}
"""The fault, and how often."""

DIES_IN_A_CONSOLIDATION = ("consolidating", "backed_up", "merged", "verified", "before_version_report")
SETTLED = (kinds.VersionPublished, kinds.ConsolidationCancelled)
HANG: frozenset[Failure] = frozenset({"hang"})
LOSS: frozenset[Failure] = frozenset({"loss"})
KILLED: frozenset[Failure] = frozenset({"killed"})
FULL: frozenset[Failure] = frozenset({"disk_full"})

IN_THE_WORKER = (
    *(Fault(name, 1.0, "worker", _at(POINTS, what), WORKER_ENDS, frozenset({failure}))
      for name, (what, failure) in DEATHS.items()),
    *(Fault(name, 0.6, "worker", _at([point], what), WORKER_ENDS, HANG) for name, (point, what) in STUCK.items()),
    Fault("worker stuck in a consolidation", 0.6, "worker",
          _in_a_consolidation(["backed_up", "merged"], "hang"), SETTLED, HANG),
    Fault("worker killed in a consolidation", 1.0, "worker",
          _in_a_consolidation(DIES_IN_A_CONSOLIDATION, "SIGKILL"), SETTLED, KILLED),
    Fault("disk full in a save", 1.0, "worker", _at(["file_written"], "no_room"), [kinds.StorageFreed], FULL),
    *(Fault(name, 1.0, "nothing", _at_a_step(what), [MicrobatchSplit], causes, marks=True)
      for name, (what, causes) in SHORT_OF_MEMORY.items()),
    *(Fault(name, 0.5, "nothing", _in_an_evaluation(what), ()) for name, what in EVALUATIONS.items()),
    *(Fault(name, weight, "nothing", _at_a_step(what), [BatchSkipped, kinds.JobFailed], LOSS, marks=True)
      for name, (what, weight) in NUMBERS.items()),
)  # fmt: skip

FROM_OUTSIDE = (
    Fault("worker killed from outside", 2.0, "worker", _kill_worker, (), KILLED),
    Fault("SIGSTOP of the worker", 0.6, "worker", _stop_worker_for_good, WORKER_ENDS, HANG),
    Fault("SIGSTOP of the worker, SIGCONT in time", 1.0, "nothing", _stop_worker_for_a_while, ()),
    Fault("daemon kill -9", 3.0, "daemon", _kill_daemon, [kinds.DaemonStarted]),
    Fault("daemon and worker kill -9", 1.0, "daemon", _kill_daemon_and_worker, [kinds.DaemonStarted], KILLED),
    Fault("SIGSTOP of the daemon, SIGCONT", 1.0, "nothing", _stop_daemon_for_a_while, ()),
    Fault("clock set by a day", 1.0, "nothing", _set_the_clock, ()),
    Fault("memory taken by others", 0.6, "worker", _take_memory, [kinds.MemoryRecovered]),
    Fault("disk below hard_gb", 0.6, "worker",
          _edit("hard_gb = 0.0", "hard_gb = 1000000.0", kinds.StorageExhausted), [kinds.StorageFreed], FULL),
)  # fmt: skip

BY_PEOPLE = (
    Fault("learning rate edited", 1.0, "nothing", _other_rate, ()),
    Fault("model edited, and fixed", 0.6, "nothing",
          _edit('tiny-model"', 'other-model"', ConfigRefused), [ConfigFixed]),
    Fault("half an edit of the config, and the rest", 0.6, "nothing",
          _edit("soft_gb = 0.0", "soft_gb = ", ConfigRefused), [ConfigFixed]),
    Fault("bad file in the inbox", 1.0, "nothing", _bad_file, [kinds.JobRejected]),
    Fault("file that was trained before", 1.0, "nothing", _same_file_again, [kinds.FileDuplicate]),
    Fault("pause, resume", 1.5, "nothing", _pause, ()),
    Fault("skip", 0.5, "nothing", _command("skip"), [kinds.JobSkipped], marks=True),
    Fault("stop, and run again", 0.7, "daemon", _command("stop"), [kinds.DaemonStarted]),
    Fault("stop --now, and run again", 0.7, "daemon", _command("stop", "--now"), [kinds.DaemonStarted]),
    Fault("consolidation", 1.5, "nothing", _consolidate, SETTLED),
)  # fmt: skip

FAULTS: Sequence[Fault] = (*IN_THE_WORKER, *FROM_OUTSIDE, *BY_PEOPLE)
"""What is drawn from. Consolidations are no fault; they are what everything else must not disturb."""
