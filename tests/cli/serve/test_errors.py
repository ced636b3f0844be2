"""Errors in the form that OpenAI's clients understand, with the status that says whether to ask again."""

from __future__ import annotations

import pytest

from cli.errors import UserError
from cli.generate.models import UnknownModel
from cli.generate.process import GenerationRefused, ProcessEnded
from cli.serve.errors import ApiError, as_api_error
from journal.errors import StorageFailed


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UnknownModel("there is no model 'x'", "choose"), 404, "model_not_found"),
        (GenerationRefused("no", "", "prompt"), 400, "invalid_value"),
        (GenerationRefused("no", "", "context"), 400, "context_length_exceeded"),
        (GenerationRefused("no", "", "memory"), 503, "memory_short"),
        (GenerationRefused("no", "", "other"), 500, "model_unusable"),
        (ProcessEnded("it died", ""), 503, "process_ended"),
        (UserError("no"), 500, "model_unusable"),
        (StorageFailed("x", OSError(5, "I/O error")), 500, "model_unusable"),
        (KeyError("x"), 500, "internal_error"),
    ],
)
def test_status_says_whose_fault_it_is(error: Exception, status: int, code: str) -> None:
    found = as_api_error(error)
    assert (found.status, found.code) == (status, code)
    assert set(found.body["error"]) == {"message", "type", "param", "code"}
    assert ("Retry-After" in found.headers) == (status == 503)


def test_advice_is_a_sentence_of_the_message() -> None:
    assert as_api_error(UserError("it is damaged", "restore it")).message == "it is damaged. Restore it"
    assert as_api_error(ApiError(429, "wait", retry_after_s=3)).headers == {"Retry-After": "3"}


def test_process_that_ran_out_of_memory_is_started_again_later() -> None:
    found = [as_api_error(ProcessEnded("it died", "", out_of_memory=each)).retry_after_s for each in (True, False)]
    assert found == [30, 1]
