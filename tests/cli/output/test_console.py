"""What the console prints of events that come often."""

from __future__ import annotations

from cli.output.console import Console
from core.state import State
from events import kinds
from events.values import ARITHMETIC, FP32_INSTEAD
from tests.events.examples import EVENTS, JOB


def started(attempt: int, **environment: str) -> kinds.TrainingStarted:
    return kinds.TrainingStarted(
        job=JOB, attempt=attempt, global_step=0, step=0, checkpoint=None, environment=environment, changed=()
    )


def test_slow_bfloat16_is_warned_of_once() -> None:
    """With the setting to change. Where bfloat16 is used as asked, nothing is said."""
    console, state = Console(lambda _: None), State()
    used = ("bf16", FP32_INSTEAD, FP32_INSTEAD)
    texts = [str(console.text(started(n, **{ARITHMETIC: each}), state)) for n, each in enumerate(used)]
    assert ["keepstep config set training.precision fp32" in text for text in texts] == [False, True, False]


def test_steps_in_quick_succession_are_printed_as_one_line() -> None:
    console, state = Console(lambda _: None), State()
    step = next(event for event in EVENTS if isinstance(event, kinds.StepReached))
    assert [console.text(step, state) is None for _ in range(3)] == [False, True, True]
