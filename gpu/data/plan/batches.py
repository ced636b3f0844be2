"""The batch plan: a pure function of the rows' lengths, data, tokenizer, seed, epoch and geometry.

Every step is computed directly; nothing is replayed to reach it. The rule never changes (another rule gets another
number in the key, and so another fingerprint):

1.  The key of an epoch is the SHA-256 of a line that names all inputs and the epoch. Its first eight bytes,
    little-endian, seed the random keys of the rows, the next eight those of the micro-batches
    (`gpu.data.plan.shuffle`). Rows are taken in the order of their random keys.
2.  Each `batch_size × gradient_accumulation` rows in that order make up a full step. The remaining rows make up one
    smaller step.
3.  Full steps are grouped into windows of WINDOW_STEPS; the last window may be smaller. The rows of a window are sorted
    by length (of equal ones, the earlier first) and cut into micro-batches of `batch_size`, which then need little
    padding. The micro-batches of the window are sorted by their random keys, whose numbers count over the epoch, and
    each `gradient_accumulation` of them make up a step.
4.  The rows of the last, smaller step are sorted by length and cut in the same way, and stay in that order.
5.  With packing, 3 and 4 do not apply. A step has its rows in the order of 2. They are packed into sequences
    (`gpu.data.plan.packing`), the longest first, `batch_size` of them to a micro-batch. So a step trains as many rows
    as without packing, in fewer sequences.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from events.settings import JobSettings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Lengths = npt.NDArray[np.int32]
    Numbers = npt.NDArray[np.integer]

WINDOW_STEPS = 64
"""Enough micro-batches that neighbours have about the same length. Few enough that any step is found in a millisecond,
and that lengths do not correlate with the progress of the epoch."""

SAMPLED_STEPS = 2000
"""Steps from which the padding share is estimated with packing: packing all rows of a large file takes minutes."""

MicroBatch = tuple[tuple[int, ...], ...]
"""Sequences that are computed together, each a tuple of rows: one row, unless packed."""


def count_steps(rows: int, rows_per_step: int) -> int:
    """Return the steps of an epoch; the last one may be smaller. Rows are pieces, with and without packing."""
    return -(-rows // rows_per_step)


@dataclass(frozen=True)
class Batch:
    """The rows of one optimizer step, in micro-batches."""

    epoch: int
    """From 1."""
    micro_batches: tuple[MicroBatch, ...]

    @property
    def rows(self) -> list[int]:
        """All rows of the step."""
        return [row for micro_batch in self.micro_batches for sequence in micro_batch for row in sequence]


@dataclass(eq=False)
class Batches:
    """The batch plan of a job. The last batch of an epoch may be smaller; each row appears once an epoch."""

    data_sha256: str
    tokenizer_sha256: str
    rows_sha256: str
    """SHA-256 of the encoded rows: their tokens, which of them are trained, where rows end."""
    lengths: Lengths
    """Tokens of each row."""
    seed: int
    epochs: int
    batch_size: int
    gradient_accumulation: int
    max_length: int
    packing: bool
    _order: tuple[int, Numbers] | None = field(default=None, init=False, repr=False)
    _window: tuple[int, int, list[list[int]]] | None = field(default=None, init=False, repr=False)

    @classmethod
    def planned(
        cls, data_sha256: str, tokenizer_sha256: str, rows_sha256: str, lengths: Lengths, settings: JobSettings
    ) -> Batches:
        """Return the plan for the rows of a data file under `settings`."""
        return cls(
            data_sha256=data_sha256,
            tokenizer_sha256=tokenizer_sha256,
            rows_sha256=rows_sha256,
            lengths=lengths,
            seed=settings.training.seed,
            epochs=settings.training.epochs,
            batch_size=settings.training.batch_size,
            gradient_accumulation=settings.training.gradient_accumulation,
            max_length=settings.data.max_length,
            packing=settings.data.packing,
        )

    @property
    def rows(self) -> int:
        return len(self.lengths)

    @property
    def rows_per_step(self) -> int:
        """Rows of a full step."""
        return self.batch_size * self.gradient_accumulation

    @property
    def steps_per_epoch(self) -> int:
        return count_steps(self.rows, self.rows_per_step)

    @property
    def steps_total(self) -> int:
        return self.steps_per_epoch * self.epochs

    @property
    def sha256(self) -> str:
        """The fingerprint of everything that the batches depend on, and of the encoded rows."""
        inputs = f"{self._inputs()} epochs={self.epochs} rows={self.rows} encoded={self.rows_sha256}"
        return hashlib.sha256(inputs.encode()).hexdigest()

    @property
    def padding_share(self) -> float:
        """The share of padding among all positions that the first epoch computes. Other epochs differ only by
        chance."""
        if self.packing:
            every = max(1, self.steps_per_epoch // SAMPLED_STEPS)
            batches = (self.step(step) for step in range(1, self.steps_per_epoch + 1, every))
            sizes = [self._size(micro_batch) for batch in batches for micro_batch in batch.micro_batches]
            positions, tokens = (sum(column) for column in zip(*sizes, strict=True))
        else:
            positions, tokens = self._positions_without_packing(), int(self.lengths.sum(dtype="int64"))
        return float((positions - tokens) / positions)

    def step(self, step: int) -> Batch:
        """Return the batch of step `step`, from 1 to `steps_total`."""
        if not 1 <= step <= self.steps_total:
            raise IndexError(f"step {step} of a plan of {self.steps_total}")
        before, index = divmod(step - 1, self.steps_per_epoch)
        epoch = before + 1
        if self.packing:
            return Batch(epoch, self._packed_micro_batches(self._rows_of_steps(epoch, index, index + 1).tolist()))
        window, place = divmod(index, WINDOW_STEPS)
        if index == self._full_steps:
            micro_batches = self._micro_batches(self._rows_of_steps(epoch, index, index + 1))
        else:
            first = place * self.gradient_accumulation
            micro_batches = self._window_micro_batches(epoch, window)[first : first + self.gradient_accumulation]
        return Batch(epoch, tuple(tuple((row,) for row in rows) for rows in micro_batches))

    def step_of(self, row: int, epoch: int) -> int:
        """Return the step at which epoch `epoch` (from 1) trains `row`."""
        (place,) = (self.order(epoch) == row).nonzero()[0].tolist()
        index = place // self.rows_per_step
        before = (epoch - 1) * self.steps_per_epoch
        if self.packing or index == self._full_steps:
            return int(before + index + 1)
        window = index // WINDOW_STEPS
        at = next(at for at, rows in enumerate(self._window_micro_batches(epoch, window)) if row in rows)
        return int(before + window * WINDOW_STEPS + at // self.gradient_accumulation + 1)

    def order(self, epoch: int) -> Numbers:
        """Return the rows in the order of their random keys in epoch `epoch` (from 1)."""
        from gpu.data.plan.shuffle import shuffle_rows

        if self._order is None or self._order[0] != epoch:
            self._order = None  # two would take twice the memory
            self._order = (epoch, shuffle_rows(self._seeds(epoch)[0], self.rows))
        return self._order[1]

    @property
    def _full_steps(self) -> int:
        """Full steps of an epoch."""
        return self.rows // self.rows_per_step

    def _rows_of_steps(self, epoch: int, first: int, end: int) -> Numbers:
        """Return the rows of these steps."""
        return self.order(epoch)[first * self.rows_per_step : end * self.rows_per_step]

    def _window_micro_batches(self, epoch: int, window: int) -> list[list[int]]:
        """Return the micro-batches of a window of full steps, in the order of training."""
        from gpu.data.plan.shuffle import random_keys

        if self._window is None or self._window[:2] != (epoch, window):
            first = window * WINDOW_STEPS
            end = min(first + WINDOW_STEPS, self._full_steps)
            micro_batches = self._micro_batches(self._rows_of_steps(epoch, first, end))
            found = random_keys(self._seeds(epoch)[1], first * self.gradient_accumulation, len(micro_batches))
            self._window = (epoch, window, [micro_batches[at] for at in found.argsort(kind="stable")])
        return self._window[2]

    def _micro_batches(self, rows: Numbers) -> list[list[int]]:
        """Return micro-batches of about equal lengths, from the shortest to the longest."""
        by_length = rows[self.lengths[rows].argsort(kind="stable")].tolist()
        return [by_length[at : at + self.batch_size] for at in range(0, len(by_length), self.batch_size)]

    def _packed_micro_batches(self, rows: list[int]) -> tuple[MicroBatch, ...]:
        from gpu.data.plan.packing import pack

        lengths = self.lengths[rows].tolist()
        sequences = [tuple(rows[index] for index in each) for each in pack(lengths, self.max_length)]
        return tuple(tuple(sequences[at : at + self.batch_size]) for at in range(0, len(sequences), self.batch_size))

    def _size(self, micro_batch: MicroBatch) -> tuple[int, int]:
        """Return the positions that a micro-batch computes, and its tokens."""
        widths = [int(self.lengths[list(sequence)].sum()) for sequence in micro_batch]
        return max(widths) * len(widths), sum(widths)

    def _positions_without_packing(self) -> int:
        """Return the positions that the first epoch computes without packing."""
        positions = 0
        for first, end in self._windows():
            lengths = self.lengths[self._rows_of_steps(1, first, end)]
            lengths.sort()
            whole = len(lengths) // self.batch_size * self.batch_size
            positions += (
                int(lengths[self.batch_size - 1 : whole : self.batch_size].sum(dtype="int64")) * self.batch_size
            )
            positions += int(lengths[-1]) * (len(lengths) - whole)
        return positions

    def _windows(self) -> Iterator[tuple[int, int]]:
        """Yield first step and end of each group that is sorted by length; the last, smaller step is its own group."""
        for first in range(0, self._full_steps, WINDOW_STEPS):
            yield first, min(first + WINDOW_STEPS, self._full_steps)
        if self._full_steps < self.steps_per_epoch:
            yield self._full_steps, self.steps_per_epoch

    def _seeds(self, epoch: int) -> tuple[int, int]:
        key = hashlib.sha256(f"{self._inputs()} epoch={epoch}".encode()).digest()
        return int.from_bytes(key[:8], "little"), int.from_bytes(key[8:16], "little")

    def _inputs(self) -> str:
        return (
            f"keepstep batches 2: data={self.data_sha256} tokenizer={self.tokenizer_sha256} seed={self.seed} "
            f"batch_size={self.batch_size} gradient_accumulation={self.gradient_accumulation} "
            f"max_length={self.max_length} packing={str(self.packing).lower()}"
        )
