"""A world that writes down what happens, as a transcript.

> Pause                           a command, or `>>` a fact of the worker
    pause_requested               the events that it leads to
! paused already; …               or the reason why it was refused
  => Yield attempt=1              an effect that is carried out
-- words                          what the test does to the world
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from core import effects
from core.commands import AnyCommand
from core.decide import decide
from core.errors import Refused
from events import messages
from events.codec import kind_of
from events.course import Course
from events.evaluation import ResultsFile
from events.event import Event
from events.kinds import AnyEvent
from events.settings import JobSettings, Plan, VersionSettings
from tests.core.world import START, World

UNSAID = {
    "samples",
    "sample_plan",
    "suites",
    "suites_sha256",
    "sha256",
    "scores",
    "comparison",
    "divergence",
    "has_suites",
    "v",
    "files",
    "space_factor",
    "model",
    "tokens",
    "seconds",
    "learning_rate",
    "epoch",
    "grad_norm",
    "expected_grad_norm",
    "size_bytes",
    "manifest_sha256",
    "environment",
    "trained",
    "trace",
    "host",
    "boot_id",
    "keepstep",
    "home_id",
    "process_started_at",
    "pid",
    "applied",
    "in_place",
    "difference",
    "tolerance",
    "made_at",
    "checkpoint_bytes",
    "checkpoint_sha256",
}
"""Fields that no scenario is about."""

UNLESS_TRUE = {"retrain", "first", "earlier", "sampling"}
"""Fields that are said where they are true."""


class Playbook(World):
    """A world with a transcript."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        super().__init__()

    @property
    def transcript(self) -> str:
        """Everything so far."""
        return "".join(f"{line}\n" for line in self.lines)

    def note(self, words: str) -> None:
        """What happens to the world from outside."""
        self.lines.append(f"-- {words}")

    def execute(self, command: AnyCommand) -> list[AnyEvent]:
        """As in the world, written down."""
        sign = ">>" if isinstance(command, messages.Fact) else ">"
        self.lines.append(f"{sign} {_shown(command)}")
        try:
            decide(self.state, command, self.now)
        except Refused as refusal:
            self.lines.append(f"! {refusal}")
            raise
        return super().execute(command)

    def happens(self, event: AnyEvent) -> None:
        """As in the world, written down."""
        self.lines.append(f"    {_shown(event)}")
        super().happens(event)

    def _carry_out(self, effect: effects.AnyEffect) -> None:
        message = effect.message if isinstance(effect, effects.SendToWorker) else None
        sent = self.worker.sent if self.worker is not None else set()
        if message is None or (type(message), message.attempt) not in sent:  # asked for every turn, carried out once
            self.lines.append(f"  => {_shown(message or effect)}")
        super()._carry_out(effect)

    def end(self) -> None:
        """What is left, at the end of a transcript."""
        state = self.state
        counts = ", ".join(
            f"{name} {count}" for name, count in msgspec.structs.asdict(state.outcomes.counts).items() if count
        )
        hold = f"; held: {state.daemon.hold.reason} -> {state.daemon.hold.advice}" if state.daemon.hold else ""
        self.lines.append(
            f"== {state.daemon.status}, committed step {state.head.global_step}; {counts or 'no job ended'}{hold}"
        )


def _shown(struct: Struct) -> str:
    name = kind_of(struct) if isinstance(struct, Event) else type(struct).__name__
    fields = (
        f"{field}={_value(field, getattr(struct, field))}"
        for field in struct.__struct_fields__
        if field not in UNSAID
        and not (field in UNLESS_TRUE and not getattr(struct, field))
        and getattr(struct, field) != Course()
    )
    return " ".join((name, *fields))


def _value(field: str, value: Any) -> str:
    match value:
        case Course():
            parts = (f"{split.parts} parts from step {split.step}" for split in value.splits)
            return f"({', '.join([*parts, *(f'without step {step}' for step in value.skipped)])})"
        case JobSettings():
            return f"({value.model.path}, seed {value.training.seed})"
        case VersionSettings():
            return f"(gate {value.gate})"
        case ResultsFile():
            return value.id
        case Plan():
            return f"({value.steps_total} steps)"
        case str() if field in {"job", "before"}:
            return f"#{int(value, 16)}"
        case float() if field in {"loss", "expected_loss", "training_loss"}:
            return f"{value:.6f}"
        case float():
            return f"start+{value - START:g}s"
        case str() if " " in value:
            return repr(value)
        case Struct():
            return f"({_shown(value)})"
        case Sequence() if not isinstance(value, str):
            return "[" + "; ".join(str(each) for each in value) + "]"
        case _:
            return str(value)
