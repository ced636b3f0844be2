"""When a loss is far above those before it: a pure function, so that a step run again is judged as it was.

It stands here and not in `core/`, for it must be answered before the optimizer touches the weights; what then becomes
of the batch is decided there. The losses come from the log that every checkpoint has in it, so a worker that goes on
from one holds the step against the same numbers as the worker that did not stop.

    median + spike × max(MAD, median / 100)

The median and the median absolute deviation do not move when a few of the losses are outliers themselves. The hundredth
of the median is for losses that hardly differ at all, where any change would be many deviations.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

FEWEST = 16
"""With fewer losses their spread is chance; and at the beginning of a file the loss falls fast."""

FLATTEST = 0.01
"""Of the median: the least that a deviation is taken for."""


def threshold(losses: Sequence[float], spike: float, window: int) -> float | None:
    """The loss above which the next one is a spike, after these of the same job (those that are numbers, the oldest
    first); None: any will do."""
    last = losses[-window:]
    if not spike or len(last) < FEWEST:
        return None
    middle = median(last)
    deviation = median(abs(loss - middle) for loss in last)
    return middle + spike * max(deviation, FLATTEST * abs(middle))
