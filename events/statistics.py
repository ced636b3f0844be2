"""Statistics of evaluations: the matrix of scores, forgetting, backward transfer, intervals, diversity of answers.

Pure: the worker, the gate and the views use the same numbers, and the same input gives the same bits everywhere.

`R[i][j]` is the score on file j after training on file i. A row of it maps the files that were evaluated to their
scores. A score is a loss (nats per token: lower is better) or an accuracy (higher is better); all functions return
numbers whose sign says what happened in words: *forgetting* above zero is bad, *backward transfer* above zero is good.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from random import Random
from typing import Literal, NamedTuple

RESAMPLES = 1_000
"""Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 14.3: 1,000 for the ends of an interval."""

LEVEL = 0.95
"""Share of intervals that contain the true value."""

ROWS_MIN = 5
"""Fewer rows have no interval: the bootstrap can only repeat the few differences that it was given."""

Better = Literal["lower", "higher"]
"""Which score is better: the lower one (a loss) or the higher one (an accuracy)."""

Scores = Mapping[str, float]
"""The scores of one model, by file."""

Matrix = Sequence[tuple[str, Scores]]
"""The matrix R: for each trained file, in the order of training, its name and the scores after it."""


class Interval(NamedTuple):
    """An estimate with the ends of its interval. None: too few rows for an interval."""

    estimate: float
    low: float | None
    high: float | None

    def is_above(self, limit: float) -> bool:
        """True if the whole interval is above the limit.

        >>> Interval(0.3, 0.2, 0.4).is_above(0.1), Interval(0.3, None, None).is_above(0.1)
        (True, False)
        """
        return self.low is not None and self.low > limit


class Change(NamedTuple):
    """One row or question that two models were scored on."""

    before: float
    after: float
    weight: float = 1.0
    """What the scores are sums over: the tokens of a row; 1 for a question."""


def average(scores: Scores) -> float | None:
    """Return the mean score over files, each counted once; None: there is no file. Lopez-Paz and Ranzato (2017),
    arXiv 1706.08840, equation 2: ACC is the mean of the last row of R.

    >>> average({"a": 1.0, "b": 2.0}), average({})
    (1.5, None)
    """
    return _mean(list(scores.values()))


def backward_transfer(matrix: Matrix, better: Better = "lower") -> float | None:
    """Return the mean change of earlier files since each was trained; above 0: later files made them better.

    BWT = 1/(T-1) · Σ (R[T][j] - R[j][j]) over j < T, with the sign of an accuracy: Lopez-Paz and Ranzato (2017), arXiv
    1706.08840, equation 3. Files without both scores are left out. None: there is no such file.

    Loss of "a" rises from 1.0 to 1.5, that of "b" falls from 2.0 to 1.9: -(0.5 - 0.1) / 2 = -0.2.

    >>> losses = [("a", {"a": 1.0}), ("b", {"a": 1.2, "b": 2.0}), ("c", {"a": 1.5, "b": 1.9, "c": 0.5})]
    >>> round(backward_transfer(losses), 9)
    -0.2
    >>> backward_transfer([("a", {"a": 0.8}), ("b", {"a": 0.5, "b": 0.9})], "higher")
    -0.30000000000000004
    """
    if not matrix:
        return None
    last = matrix[-1][1]
    changes = [
        _gain(scores[file], last[file], better) for file, scores in matrix[:-1] if file in scores and file in last
    ]
    return _mean(changes)


def forgetting(matrix: Matrix, better: Better = "lower") -> dict[str, float]:
    """Return for each earlier file how much worse it is now than at its best; below 0: it was never better than now.

    f[j] = max over l < T of R[l][j], minus R[T][j], for an accuracy: Chaudhry et al. (2018), arXiv 1801.10112,
    equation 3. For a loss: R[T][j] minus the minimum.

    >>> losses = [("a", {"a": 1.0}), ("b", {"a": 0.75, "b": 2.0}), ("c", {"a": 1.5, "b": 1.5, "c": 0.5})]
    >>> forgetting(losses)
    {'a': 0.75, 'b': -0.5}
    """
    if not matrix:
        return {}
    best = min if better == "lower" else max
    found = {}
    for file, score in matrix[-1][1].items():
        earlier = [scores[file] for _, scores in matrix[:-1] if file in scores]
        if earlier:
            found[file] = -_gain(best(earlier), score, better)
    return found


def worst(values: Scores) -> str | None:
    """Return the file with the highest value (of forgetting); the first by name among equals. None: there is none.

    >>> worst({"b": 0.5, "a": 0.5, "c": 0.1})
    'a'
    """
    return min(values, key=lambda file: (-values[file], file), default=None)


def paired_bootstrap(
    changes: Sequence[Change], seed: str, *, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval:
    """Return the change per unit of weight, Σ(after - before) / Σ weight, with its percentile interval.

    Rows are drawn with replacement, before and after together. Efron and Tibshirani (1993), section 13.3: the ends are
    the k-th lowest and the k-th highest of the resampled values, k = ⌊(resamples + 1) · (1 - level) / 2⌋. The draws
    follow from `seed` alone. Without rows, or with a weight of 0, the estimate is 0.

    Each of these ten rows rises by 1.0 per token, so each resample does:

    >>> paired_bootstrap([Change(4.0, 6.0, weight=2)] * 10, "seed")
    Interval(estimate=1.0, low=1.0, high=1.0)
    >>> paired_bootstrap([Change(1.0, 2.0)] * 3, "seed")
    Interval(estimate=1.0, low=None, high=None)
    """
    differences = [(each.after - each.before, each.weight) for each in changes]
    estimate = _ratio(differences)
    tail = int((resamples + 1) * (1 - level) / 2)
    if len(differences) < ROWS_MIN or tail < 1:
        return Interval(estimate, None, None)
    draw, count = Random(seed).random, len(differences)  # noqa: S311  # not for secrets
    values = sorted(_ratio([differences[int(draw() * count)] for _ in range(count)]) for _ in range(resamples))
    return Interval(estimate, values[tail - 1], values[-tail])


def distinct_n(answers: Iterable[Sequence[Hashable]], n: int) -> float | None:
    """Return the share of different n-grams among all n-grams of the answers, which are lists of tokens or words. Li et
    al. (2016), arXiv 1510.03055, section 5. It falls when a model repeats itself. None: no answer has n tokens.

    Of the pairs ab, bc, ab two are different:

    >>> distinct_n(["abc", "ab"], 2), distinct_n(["a"], 2)
    (0.6666666666666666, None)
    """
    seen, total = set(), 0
    for answer in answers:
        for start in range(len(answer) - n + 1):
            seen.add(tuple(answer[start : start + n]))
            total += 1
    return len(seen) / total if total else None


def _gain(before: float, after: float, better: Better) -> float:
    return before - after if better == "lower" else after - before


def _ratio(differences: Sequence[tuple[float, float]]) -> float:
    weight = sum(each[1] for each in differences)
    return sum(each[0] for each in differences) / weight if weight else 0.0


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
