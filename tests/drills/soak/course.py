"""How an hour goes: which faults are drawn when, and what came of each.

A third of the time everything may happen; a third, the daemon is spared, so that one that lost many workers is looked
at for what it has left open; a third, the worker is spared too, so that one lives long enough to be measured. This goes
round three times. In the first half nothing is done that changes a step, so that a calm home can be held against it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import psutil

from events import kinds
from events.codec import kind_of
from events.event import Event
from events.kinds import AnyEvent
from tests.crash.homes import log_of
from tests.drills.soak.faults import FAULTS, MEETS_S, NOTICED_S, Costs, Fault
from tests.drills.soak.leaks import Watch
from tests.drills.soak.life import SoakLife

ROUNDS = 3
SPARED: tuple[tuple[float, frozenset[Costs]], ...] = (
    (0.35, frozenset()),
    (0.65, frozenset({"daemon"})),
    (1.00, frozenset({"daemon", "worker"})),
)
"""Up to which share of a round what is spared."""

PAUSE_S = 1.5
"""Between two faults, on average."""

DEATHS_IN_A_ROW_MAX = 2
"""Without a commit between: at five a job is abandoned, and rightly."""

SETTLED_S = 300.0
SAY_EVERY_S = 60.0


class Window(NamedTuple):
    """From one fault to the next."""

    since: int
    """How many events there were."""
    fault: Fault


class Course:
    """One soak."""

    def __init__(self, life: SoakLife, seconds: float) -> None:
        self.life, self.seconds = life, seconds
        self.watch = Watch()
        self.times: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()
        self.unnoticed: list[str] = []
        self.windows: list[Window] = []
        self.noticed: dict[str, Counter[str]] = {}
        self.longest_s: dict[str, float] = {}
        self.took_s = 0.0
        """In which faults were drawn."""
        self._began = time.monotonic()
        self._said = self._began
        life.between = self._look

    @property
    def passed_s(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def run(self) -> None:
        """The whole time, and then everything comes to its end."""
        self.life.tend()
        halved = False
        while self.passed_s < self.seconds:
            if not halved and self.passed_s > self.seconds / 2:
                halved = True
                self._stand()
            self._let_it_live()
            self._meet(self._draw(marks=halved))
            self.life.spend(self.life.choose.expovariate(1 / PAUSE_S))
        self.took_s = self.passed_s
        self._settle()

    # -- faults -----------------------------------------------------------------------------------------------------

    def _draw(self, *, marks: bool) -> Fault:
        share = (self.passed_s / self.seconds * ROUNDS) % 1.0
        spared = next(spared for until, spared in SPARED if share <= until)
        some = [fault for fault in FAULTS if fault.costs not in spared and (marks or not fault.marks)]
        return self.life.choose.choices(some, [fault.weight for fault in some])[0]

    def _meet(self, fault: Fault) -> None:
        """Do it, and wait until it was noticed."""
        life, since = self.life, len(self.life.look())
        began = time.monotonic()
        self.windows.append(Window(since, fault))
        if not fault.begin(life):
            self.missed[fault.name] += 1
            return
        self.times[fault.name] += 1
        if not fault.ends_with:
            return
        if not life.wait(lambda: life.seen(fault.ends_with, since), MEETS_S if fault.marks else NOTICED_S):
            if fault.marks:  # the file ended before that step, or the worker did
                self.times[fault.name] -= 1
                self.missed[fault.name] += 1
            else:
                self.unnoticed.append(f"{fault.name}, {self.passed_s:.0f} s from the beginning")
            return
        event = life.seen(fault.ends_with, since)
        assert event is not None
        self.noticed.setdefault(fault.name, Counter())[_word(event)] += 1
        self.longest_s[fault.name] = max(self.longest_s.get(fault.name, 0.0), time.monotonic() - began)

    def _let_it_live(self) -> None:
        """Before a worker dies once more: some steps are committed, if too many died already."""
        life = self.life
        if life.now.deaths >= DEATHS_IN_A_ROW_MAX:
            assert life.wait(lambda: life.now.deaths == 0, SETTLED_S), log_of(life.home)

    # -- times of rest ----------------------------------------------------------------------------------------------

    def _stand(self) -> None:
        """What was trained until now becomes a version: up to here a calm home can be held against it."""
        life = self.life
        published = life.count(kinds.VersionPublished)
        if life.command("consolidate", "--after-current") == 0:
            assert life.wait(lambda: life.count(kinds.VersionPublished) > published, SETTLED_S), log_of(life.home)

    def _settle(self) -> None:
        """Everything that was given is trained, with nobody disturbing it."""
        life = self.life
        life.feeding = False
        life.clock.unlink(missing_ok=True)
        assert life.wait(lambda: life.left() == 0 and not life.now.wants_a_version, SETTLED_S), log_of(life.home)
        assert life.wait(lambda: not life.now.abandoned and not life.now.is_held, SETTLED_S), log_of(life.home)
        life.leave()
        life.to_the_end()

    # -- what is seen -----------------------------------------------------------------------------------------------

    def _look(self) -> None:
        life = self.life
        if life.runs():
            self.watch.look([("daemon", psutil.Process(life.daemon.pid)), ("worker", life.worker())])
        if time.monotonic() > self._said + SAY_EVERY_S:
            self._said = time.monotonic()
            self.say()

    def say(self) -> None:
        """How far it is."""
        life = self.life
        print(
            f"{self.passed_s / 60:.0f} min: {self.times.total()} faults ({self.missed.total()} missed), "
            f"{life.count(kinds.JobTrained)} files, {life.now.step} steps, {life.restarts} daemons started again, "
            f"{life.count(kinds.VersionPublished)} versions",
            flush=True,
        )


def _word(event: AnyEvent) -> str:
    """What an event is called in the table."""
    if isinstance(event, kinds.AttemptFailed):
        return event.failure
    if isinstance(event, kinds.ConsolidationAborted) and event.failure is not None:
        return event.failure
    return kind_of(event)


def unexplained(events: Sequence[Event], windows: Sequence[Window]) -> list[str]:
    """Failures of attempts and consolidations that neither the fault before them nor the one before that can cause."""
    found = []
    for number, event in enumerate(events):
        if not isinstance(event, kinds.AttemptFailed | kinds.ConsolidationAborted) or event.failure is None:
            continue
        before = [window.fault for window in windows if window.since <= number][-2:]
        if not any(event.failure in fault.causes for fault in before):
            found.append(f"{event.failure} after {before[-1].name if before else 'nothing'}: {event.message}")
    return found
