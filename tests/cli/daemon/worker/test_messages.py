"""Answers to the worker."""

from __future__ import annotations

from msgspec.structs import replace

from cli.daemon.worker.messages import answer_to, problem_of
from cli.home.paths import Home
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


def test_a_checkpoint_that_is_not_there_is_no_checkpoint(home: Home) -> None:
    """Only of the attempt that runs: an earlier one may be deleted already."""
    state = at_work().state
    written = messages.CheckpointWritten(
        attempt=1,
        checkpoint="step-00000009-attempt-0001",
        global_step=9,
        step=9,
        parent=None,
        size_bytes=1,
        manifest_sha256="",
        reason="steps",
    )
    assert "but it is missing or incomplete: its directory is missing" in str(problem_of(written, state, home))
    assert problem_of(replace(written, attempt=7), state, home) is None
