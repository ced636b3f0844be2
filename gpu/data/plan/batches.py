"""Which rows make up which batch: a pure function of the rows' lengths, data, tokenizer, seed, epoch and geometry.

Every step is sought directly; nothing is ever fast-forwarded. The rule, which is for ever (another one has another
number in the key, and so another fingerprint):

1.  The key of an epoch is the SHA-256 of a line that names all inputs and the epoch. Its first eight bytes, the least
    first, start a stream of places for rows, the next eight one for micro-batches (`gpu.data.plan.mix`). Rows are taken
    in the order of their places.
2.  Each `batch_size × gradient_accumulation` rows in that order make up a full step. The rows that are left behind the
    last full step are one more, smaller one.
3.  Full steps are looked at in windows of WINDOW_STEPS, the last window of fewer. The rows of a window are sorted by
    length (of equal ones, the earlier first) and cut into micro-batches of `batch_size`, which then have hardly any
    padding. The window's micro-batches are put into the order of their places, which are counted over the epoch, and
    each `gradient_accumulation` of them are a step.
4.  The rows of the last, smaller step are sorted by length and cut in the same way, and stay in that order.
5.  With packing, 3 and 4 do not apply: a step has its rows in the order of 2, and they are put into sequences
    (`gpu.data.encode.packing`), the longest first, `batch_size` of them to a micro-batch. So a step learns as many rows
    as without, in fewer sequences.
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
"""Enough micro-batches that neighbours in length are about equal; few enough that any step is found in a millisecond,
and that the lengths within a step, or around it, do not show what the epoch is at."""

SAMPLED_STEPS = 2000
"""With packing, the share of padding is that of so many steps: packing all rows of a large file takes minutes."""

MicroBatch = tuple[tuple[int, ...], ...]
"""Sequences that are computed together, each of its rows: of one, unless they are packed."""


@dataclass(frozen=True)
class Batch:
    """The rows of one optimizer step, in micro-batches."""

    epoch: int
    """From 1."""
    micro_batches: tuple[MicroBatch, ...]

    @property
    def rows(self) -> list[int]:
        """All of them."""
        return [row for micro_batch in self.micro_batches for sequence in micro_batch for row in sequence]


@dataclass(eq=False)
class Batches:
    """The plan of a job. The last batch of an epoch may be smaller; no row is left out, none is seen twice."""

    data_sha256: str
    tokenizer_sha256: str
    rows_sha256: str
    """Of all that the rows are: their tokens, what of them is learned, where they end."""
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
        """The plan for the rows of a data file under `settings`."""
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
        """Of a full step."""
        return self.batch_size * self.gradient_accumulation

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.rows // self.rows_per_step)

    @property
    def steps_total(self) -> int:
        return self.steps_per_epoch * self.epochs

    @property
    def sha256(self) -> str:
        """The fingerprint of everything that the batches follow from, and of what is in them."""
        inputs = f"{self._inputs()} epochs={self.epochs} rows={self.rows} encoded={self.rows_sha256}"
        return hashlib.sha256(inputs.encode()).hexdigest()

    @property
    def padding_share(self) -> float:
        """Of all positions that are computed in the first epoch, the share that is padding. (In the others it differs
        by chance only.)"""
        if self.packing:
            every = max(1, self.steps_per_epoch // SAMPLED_STEPS)
            batches = (self.step(step) for step in range(1, self.steps_per_epoch + 1, every))
            sizes = [self._size(micro_batch) for batch in batches for micro_batch in batch.micro_batches]
            positions, tokens = (sum(column) for column in zip(*sizes, strict=True))
        else:
            positions, tokens = self._positions(), int(self.lengths.sum(dtype="int64"))
        return float((positions - tokens) / positions)

    def step(self, step: int) -> Batch:
        """The batch of step `step`, from 1 to `steps_total`."""
        if not 1 <= step <= self.steps_total:
            raise IndexError(f"step {step} of a plan of {self.steps_total}")
        before, index = divmod(step - 1, self.steps_per_epoch)
        epoch = before + 1
        if self.packing:
            return Batch(epoch, self._packed(self._slice(epoch, index, index + 1).tolist()))
        window, place = divmod(index, WINDOW_STEPS)
        if index == self._full_steps:
            micro_batches = self._cut(self._slice(epoch, index, index + 1))
        else:
            first = place * self.gradient_accumulation
            micro_batches = self._of_window(epoch, window)[first : first + self.gradient_accumulation]
        return Batch(epoch, tuple(tuple((row,) for row in rows) for rows in micro_batches))

    def step_of(self, row: int, epoch: int) -> int:
        """The step at which epoch `epoch` (from 1) learns `row`."""
        (place,) = (self.order(epoch) == row).nonzero()[0].tolist()
        index = place // self.rows_per_step
        before = (epoch - 1) * self.steps_per_epoch
        if self.packing or index == self._full_steps:
            return int(before + index + 1)
        window = index // WINDOW_STEPS
        at = next(at for at, rows in enumerate(self._of_window(epoch, window)) if row in rows)
        return int(before + window * WINDOW_STEPS + at // self.gradient_accumulation + 1)

    def order(self, epoch: int) -> Numbers:
        """The rows in the order of their places in epoch `epoch` (from 1)."""
        from gpu.data.plan.mix import shuffled

        if self._order is None or self._order[0] != epoch:
            self._order = None  # two would take twice the memory
            self._order = (epoch, shuffled(self._starts(epoch)[0], self.rows))
        return self._order[1]

    @property
    def _full_steps(self) -> int:
        """Of an epoch."""
        return self.rows // self.rows_per_step

    def _slice(self, epoch: int, first: int, end: int) -> Numbers:
        """The rows of these steps, by their places."""
        return self.order(epoch)[first * self.rows_per_step : end * self.rows_per_step]

    def _of_window(self, epoch: int, window: int) -> list[list[int]]:
        """The micro-batches of a window of full steps, in the order in which they are learned."""
        from gpu.data.plan.mix import places

        if self._window is None or self._window[:2] != (epoch, window):
            first = window * WINDOW_STEPS
            end = min(first + WINDOW_STEPS, self._full_steps)
            micro_batches = self._cut(self._slice(epoch, first, end))
            found = places(self._starts(epoch)[1], first * self.gradient_accumulation, len(micro_batches))
            self._window = (epoch, window, [micro_batches[at] for at in found.argsort(kind="stable")])
        return self._window[2]

    def _cut(self, rows: Numbers) -> list[list[int]]:
        """Micro-batches of about equal lengths, from the shortest to the longest."""
        by_length = rows[self.lengths[rows].argsort(kind="stable")].tolist()
        return [by_length[at : at + self.batch_size] for at in range(0, len(by_length), self.batch_size)]

    def _packed(self, rows: list[int]) -> tuple[MicroBatch, ...]:
        from gpu.data.encode.packing import packed

        lengths = self.lengths[rows].tolist()
        sequences = [tuple(rows[index] for index in each) for each in packed(lengths, self.max_length)]
        return tuple(tuple(sequences[at : at + self.batch_size]) for at in range(0, len(sequences), self.batch_size))

    def _size(self, micro_batch: MicroBatch) -> tuple[int, int]:
        """Positions that are computed for it, and tokens on them."""
        widths = [int(self.lengths[list(sequence)].sum()) for sequence in micro_batch]
        return max(widths) * len(widths), sum(widths)

    def _positions(self) -> int:
        """Those that the first epoch computes, without packing."""
        positions = 0
        for first, end in self._windows():
            lengths = self.lengths[self._slice(1, first, end)]
            lengths.sort()
            whole = len(lengths) // self.batch_size * self.batch_size
            positions += (
                int(lengths[self.batch_size - 1 : whole : self.batch_size].sum(dtype="int64")) * self.batch_size
            )
            positions += int(lengths[-1]) * (len(lengths) - whole)
        return positions

    def _windows(self) -> Iterator[tuple[int, int]]:
        """First step and end of what is sorted by length together; the last, smaller step is by itself."""
        for first in range(0, self._full_steps, WINDOW_STEPS):
            yield first, min(first + WINDOW_STEPS, self._full_steps)
        if self._full_steps < self.steps_per_epoch:
            yield self._full_steps, self.steps_per_epoch

    def _starts(self, epoch: int) -> tuple[int, int]:
        key = hashlib.sha256(f"{self._inputs()} epoch={epoch}".encode()).digest()
        return int.from_bytes(key[:8], "little"), int.from_bytes(key[8:16], "little")

    def _inputs(self) -> str:
        return (
            f"keepstep batches 2: data={self.data_sha256} tokenizer={self.tokenizer_sha256} seed={self.seed} "
            f"batch_size={self.batch_size} gradient_accumulation={self.gradient_accumulation} "
            f"max_length={self.max_length} packing={str(self.packing).lower()}"
        )
