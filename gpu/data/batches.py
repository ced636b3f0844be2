"""Which rows make up which batch: a pure function of data, tokenizer, seed, epoch and batch geometry.

Every step is sought directly; nothing is ever fast-forwarded. The order of an epoch is found by sorting the rows by a
keyed hash of their index, so that it is the same with every version of every library, on every machine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from events.settings import JobSettings


@dataclass(frozen=True)
class Batch:
    """The rows of one optimizer step, in micro-batches."""

    epoch: int
    """From 1."""
    micro_batches: tuple[tuple[int, ...], ...]


@dataclass
class Batches:
    """The plan of a job. The last batch of an epoch may be smaller; no row is left out, none is seen twice."""

    data_sha256: str
    tokenizer_sha256: str
    rows: int
    seed: int
    epochs: int
    batch_size: int
    gradient_accumulation: int
    max_length: int
    _order: tuple[int, list[int]] = field(default=(0, []), init=False, repr=False, compare=False)

    @classmethod
    def planned(cls, data_sha256: str, tokenizer_sha256: str, rows: int, settings: JobSettings) -> Batches:
        """The plan for a data file of `rows` rows under `settings`."""
        return cls(
            data_sha256=data_sha256,
            tokenizer_sha256=tokenizer_sha256,
            rows=rows,
            seed=settings.training.seed,
            epochs=settings.training.epochs,
            batch_size=settings.training.batch_size,
            gradient_accumulation=settings.training.gradient_accumulation,
            max_length=settings.data.max_length,
        )

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
        """The fingerprint of everything that the batches follow from."""
        return hashlib.sha256(f"{self._inputs()} epochs={self.epochs} rows={self.rows}".encode()).hexdigest()

    def step(self, step: int) -> Batch:
        """The batch of step `step`, from 1 to `steps_total`."""
        if not 1 <= step <= self.steps_total:
            raise IndexError(f"step {step} of a plan of {self.steps_total}")
        epoch, index = divmod(step - 1, self.steps_per_epoch)
        first = index * self.rows_per_step
        rows = self.order(epoch + 1)[first : first + self.rows_per_step]
        micro = (tuple(rows[at : at + self.batch_size]) for at in range(0, len(rows), self.batch_size))
        return Batch(epoch + 1, tuple(micro))

    def order(self, epoch: int) -> list[int]:
        """The rows in the order in which epoch `epoch` (from 1) sees them."""
        if self._order[0] != epoch:
            key = hashlib.sha256(f"{self._inputs()} epoch={epoch}".encode()).digest()

            def place(row: int) -> bytes:
                return hashlib.blake2b(row.to_bytes(8, "big"), key=key, digest_size=16).digest()

            self._order = (epoch, sorted(range(self.rows), key=place))
        return self._order[1]

    def _inputs(self) -> str:
        return (
            f"keepstep batches 1: data={self.data_sha256} tokenizer={self.tokenizer_sha256} seed={self.seed} "
            f"batch_size={self.batch_size} gradient_accumulation={self.gradient_accumulation} "
            f"max_length={self.max_length}"
        )
