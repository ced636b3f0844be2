"""Detect loss spikes. A pure function, so that a step that runs again gets the same verdict.

The worker must know before the optimizer changes the weights; `core/` then decides what happens to the batch. The
losses come from the log in every checkpoint, so a resumed worker compares with the same numbers.

    median + spike × max(MAD, median / 100)

A few outliers do not move the median and the median absolute deviation (MAD). The hundredth of the median is for losses
that hardly differ, where any change would be many deviations.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

LOSSES_MIN = 16
"""Fewer losses have a random spread, and the loss falls fast at the beginning of a file."""

DEVIATION_MIN = 0.01
"""The smallest deviation, as a share of the median."""


def spike_threshold(losses: Sequence[float], spike: float, window: int) -> float | None:
    """Return the loss above which the next step is a spike; None if there is no limit.

    `losses`: the finite losses of the job, the oldest first. `spike`: the number of deviations; 0 for no limit.
    `window`: how many of the last losses count.
    """
    last = losses[-window:]
    if not spike or len(last) < LOSSES_MIN:
        return None
    middle = median(last)
    deviation = median(abs(loss - middle) for loss in last)
    return middle + spike * max(deviation, DEVIATION_MIN * abs(middle))
