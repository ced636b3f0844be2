"""A home whose journal has steps and evaluations that nothing trained."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from cli.commands.init import create_home
from cli.home.paths import Home
from events import kinds
from events.codec import decode_record, encode
from events.event import Event
from journal import Journal

AT = "2026-11-22T03:00:00.123456Z"


def metrics_home(directory: Path) -> Home:
    """A new home in `directory`."""
    return create_home(directory / "home", model="nowhere")


def step(number: int, loss: float | str, attempt: int = 1) -> kinds.StepReached:
    return kinds.StepReached(
        job="3b" * 32,
        attempt=attempt,
        global_step=number,
        step=number,
        epoch=0,
        loss=loss,
        grad_norm=0.5,
        learning_rate=2e-4,
        tokens=4096,
        seconds=0.5,
    )


def evaluation(number: int, loss: float | str) -> kinds.EvaluationDone:
    return kinds.EvaluationDone(
        job="3b" * 32,
        attempt=1,
        global_step=number,
        step=number,
        rows=1,
        tokens=1,
        loss=loss,
        training_loss=1.0,
        seconds=1.0,
        concern=None,
    )


def committed(number: int) -> kinds.CheckpointCommitted:
    return kinds.CheckpointCommitted(
        job="3b" * 32,
        attempt=1,
        checkpoint=f"step-{number:08d}-attempt-0001",
        global_step=number,
        step=number,
        parent=None,
        size_bytes=1,
        manifest_sha256="",
        reason="steps",
    )


def append(home: Home, events: Sequence[Event]) -> None:
    """Append events to the journal, whatever the state machine says."""
    with (
        closing(Journal.open(home.journal, decode=decode_record)) as journal,
        journal.transaction() as transaction,
    ):
        transaction.append([encode(event) for event in events], at=AT)


def add_steps(home: Home, first: int, last: int, loss: float = 0.0) -> None:
    """Append the steps from `first` to `last`; the loss of step n is `loss` or 1 / n."""
    append(home, [step(number, loss or 1 / number) for number in range(first, last + 1)])
