"""Where the steps of a job part from its plan: batches that are computed in smaller parts, and batches that are passed
over. It is found out while the job runs, journaled before it is done, and done again by whoever runs the steps again.

The rule of a split, which is for ever, for the bits depend on it: from its step on, each planned micro-batch of n
sequences is cut, in order, into pieces of ⌈n / parts⌉; behind each `steps` steps, into half as many parts, until it is
whole again. The newest split alone counts for all steps from its own on. A micro-batch in one piece is computed as if
there were no split; of several, each is seeded by its number too (`gpu/training/loop.py`).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace


class Split(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Micro-batches in several parts, for they do not fit into memory whole."""

    step: Annotated[int, Meta(ge=1)]
    """Of the job: the first that is run so."""
    parts: Annotated[int, Meta(ge=2)]
    steps: Annotated[int, Meta(ge=1)]
    """How many steps are run so before the parts may be twice as large, and so on."""


class Course(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Everything that one job does otherwise than planned. Steps are counted within the job."""

    splits: tuple[Split, ...] = ()
    """By their steps."""
    set_aside: tuple[int, ...] = ()
    """Steps that change nothing: their batches were suspect."""

    def parts_at(self, step: int) -> int:
        """In how many parts a micro-batch of this step is computed."""
        split = next((split for split in reversed(self.splits) if split.step <= step), None)
        if split is None:
            return 1
        halvings = min((step - split.step) // split.steps, split.parts.bit_length())
        return max(1, split.parts >> halvings)

    def with_split(self, split: Split) -> Course:
        """The course on which `split` is the newest."""
        return replace(self, splits=(*(each for each in self.splits if each.step < split.step), split))

    def passing_over(self, step: int) -> Course:
        """The course on which that step changes nothing."""
        return replace(self, set_aside=tuple(sorted({*self.set_aside, step})))
