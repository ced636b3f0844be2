"""Loss and gradient norm of every step that may run again, to compare with what the second run gives."""

from __future__ import annotations

from msgspec import Struct

from events.values import Number


class StepLog(Struct, frozen=True, gc=False):
    """The results of consecutive steps.

    Longer logs share one list with the shorter ones before them, and each sees its own prefix. So a step costs the same
    however long the log is, and an older state stays as it was.
    """

    base: int = 0
    """The global step before the first entry."""
    length: int = 0
    bits: list[tuple[Number, Number]] = []

    @property
    def last(self) -> int:
        """The global step of the last entry."""
        return self.base + self.length

    def at(self, global_step: int) -> tuple[Number, Number] | None:
        """Loss and gradient norm of this step when it first ran; None: the log does not have it."""
        index = global_step - self.base - 1
        return self.bits[index] if 0 <= index < self.length else None

    def extended(self, bits: tuple[Number, Number]) -> StepLog:
        """Add the results of the next step."""
        shared, length = self.bits, self.length
        if len(shared) != length:
            if shared[length] == bits:  # an event is evolved more than once: to look ahead, then for good
                return StepLog(self.base, length + 1, shared)
            shared = shared[:length]
        shared.append(bits)
        return StepLog(self.base, length + 1, shared)

    def replaced(self, global_step: int, bits: tuple[Number, Number]) -> StepLog:
        """Replace the results of a step that the log has."""
        own = self.bits[: self.length]
        own[global_step - self.base - 1] = bits
        return StepLog(self.base, self.length, own)

    def until(self, last: int) -> StepLog:
        """The part up to and including global step `last`."""
        return self.between(self.base, last)

    def between(self, first: int, last: int) -> StepLog:
        """The part after global step `first`, up to and including `last`."""
        first = max(first, self.base)
        own = self.bits[first - self.base : max(0, min(self.length, last - self.base))]
        return StepLog(first, len(own), own)
