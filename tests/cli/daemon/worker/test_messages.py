"""Answers to the worker."""

from __future__ import annotations

from cli.daemon.worker.messages import answer_to
from events import kinds, messages
from tests.core.situations import at_work


def test_only_the_attempt_that_runs_is_asked_to_run_a_step_again() -> None:
    state = at_work().state
    attempt, job = state.attempts.current, state.training.current
    assert attempt is not None
    assert job is not None

    def split(attempt: int) -> kinds.MicrobatchSplit:
        return kinds.MicrobatchSplit(
            job=job.id, attempt=attempt, global_step=3, step=3, parts=2, steps=128, message="2 GiB are missing"
        )

    assert answer_to(split(attempt), state) == messages.RunAgain(attempt=attempt, course=job.course)
    assert answer_to(split(attempt - 1), state) is None
