"""Departures of a job from its plan: micro-batches that are computed in smaller parts, and batches that are skipped.

They are found while the job runs, journaled before they are carried out, and repeated whenever the steps run again.

The rule of a split never changes, since the bits depend on it: from its step on, each planned micro-batch of n
sequences is cut, in order, into pieces of ⌈n / parts⌉; after each `steps` steps, into half as many parts, until it is
whole again. The newest split alone counts for all steps from its own on. A micro-batch in one piece is computed as if
there were no split; of several pieces, each is also seeded by its number (`gpu/training/loop.py`).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace


class Split(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Micro-batches in several parts, because they do not fit into memory whole."""

    step: Annotated[int, Meta(ge=1)]
    """The first step of the job that runs in parts."""
    parts: Annotated[int, Meta(ge=2)]
    steps: Annotated[int, Meta(ge=1)]
    """Steps before the parts become twice as large, and so on."""


class Course(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """All departures of one job from its plan. Steps count from 1 within the job."""

    splits: tuple[Split, ...] = ()
    """In the order of their steps."""
    skipped: tuple[int, ...] = ()
    """Steps that change nothing: their batches were suspect."""

    def parts_at(self, step: int) -> int:
        """The number of parts that a micro-batch of this step is computed in."""
        split = next((split for split in reversed(self.splits) if split.step <= step), None)
        if split is None:
            return 1
        halvings = min((step - split.step) // split.steps, split.parts.bit_length())
        return max(1, split.parts >> halvings)

    def with_split(self, split: Split) -> Course:
        """Add the newest split."""
        return replace(self, splits=(*(each for each in self.splits if each.step < split.step), split))

    def skipping(self, step: int) -> Course:
        """Skip the batch of a step."""
        return replace(self, skipped=tuple(sorted({*self.skipped, step})))
