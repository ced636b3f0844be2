"""Spacing of rounds of answers by their cost: a round is taken only if it costs at most a share of the training since
the last one.

Until a round was measured, its cost is estimated from its first tokens; a round that would cost too much stops there
and is put off.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import NamedTuple

PROBE_STEPS = 8
"""Tokens of each answer after which the cost of a round is estimated: few, and more than the first ones, which are
slow."""

SAID_AGAIN = 2.0
"""A put-off round is reported again once the cost has changed by this factor."""


class TooExpensive(Exception):
    """The round would cost too much. Data: `round_s`, the estimated seconds of the whole."""

    def __init__(self, round_s: float) -> None:
        super().__init__()
        self.round_s = round_s


class PutOff(NamedTuple):
    """A round that is put off; fields as in the events."""

    round_s: float
    trained_s: float
    cost_max: float
    next_step: int | None


@dataclass
class Spacing:
    """Seconds of training and of rounds, in one attempt."""

    trained_s: float
    """Of training since the last round, over all jobs."""
    round_s: float | None
    """Of a round, measured or estimated; None: unknown."""
    wasted_s: float = 0.0
    """Of rounds that were put off after they began, since the last complete one."""
    own_s: float = 0.0
    own_steps: int = 0
    """The training of this attempt."""
    said_s: float | None = None
    """The cost of a round when a put-off was last reported."""

    def add_training(self, seconds: float) -> None:
        """Count the seconds of a step."""
        self.trained_s += seconds
        self.own_s += seconds
        self.own_steps += 1

    def spare_s(self, cost_max: float) -> float:
        """Return the seconds that a round may take now."""
        return cost_max * self.trained_s - self.wasted_s

    def forget_cost(self) -> None:
        """Another round has another cost."""
        self.round_s = self.said_s = None

    def check(self, began: float, done: int, total: int, spare_s: float) -> None:
        """Raise TooExpensive if a round that began then, and has done so many of its tokens, takes more than
        `spare_s`."""
        elapsed = time.perf_counter() - began
        whole_s = elapsed * total / done
        is_probed = done == PROBE_STEPS and self.round_s is None
        if elapsed > spare_s or (is_probed and whole_s > spare_s):
            raise TooExpensive(whole_s)

    def stopped_early(self, found: TooExpensive, began: float, spare_s: float) -> None:
        """Count a round that began and was put off."""
        self.round_s = max(found.round_s, spare_s)
        self.wasted_s += time.perf_counter() - began

    def end_round(self, seconds: float | None = None) -> None:
        """Count from here. `seconds`: of the round that ended, if it was measured."""
        self.round_s = self.round_s if seconds is None else seconds
        self.trained_s = self.wasted_s = 0.0

    def put_off(self, step: int, every: int, total: int, cost_max: float) -> PutOff | None:
        """Put the round after step `step` off. Return what to report, once for each cost; else None."""
        assert self.round_s is not None  # else nothing says that it costs too much
        said, self.said_s = self.said_s, self.said_s or self.round_s
        if said is not None and 1 / SAID_AGAIN < self.round_s / said < SAID_AGAIN:
            return None
        self.said_s = self.round_s
        return PutOff(self.round_s, self.trained_s, cost_max, self.affordable_step(step, every, total, cost_max))

    def affordable_step(self, step: int, every: int, total: int, cost_max: float) -> int | None:
        """Return the next step at which a round is due and costs little enough, if steps take as long as before; None:
        the job ends before."""
        assert self.round_s is not None  # else nothing says that it costs too much
        wanted_s = (self.round_s + self.wasted_s) / cost_max - self.trained_s
        step_s = self.own_s / self.own_steps if self.own_steps else 0.0
        steps = math.ceil(wanted_s / step_s) if step_s > 0 else every
        wanted = step + max(1, steps)
        return min(-(-wanted // every) * every, total) if wanted <= total else None
