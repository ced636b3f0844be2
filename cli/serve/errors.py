"""Errors of the API, in the form that OpenAI's clients understand."""

from __future__ import annotations

from typing import Any

from cli.errors import exit_code_of
from cli.generate.models import UnknownModel
from cli.generate.process import GenerationRefused, ProcessEnded

RETRY_LATER_S = 30
"""Time after which memory may be free again, or a restore complete."""

RETRY_NOW_S = 1
"""The next request starts another process."""


class ApiError(Exception):
    """An answer that is an error: HTTP status, what happened, and what to do."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        super().__init__(message)

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """`x-should-retry` keeps OpenAI's client from asking again where that cannot help."""
        if self.retry_after_s is None:
            return {"x-should-retry": "false"}
        return {"Retry-After": str(self.retry_after_s)}


def refused(param: str, problem: str, code: str = "invalid_value") -> ApiError:
    """The refusal of a parameter; `problem` continues a sentence that begins with its name."""
    return ApiError(400, f"{param} {problem}", code=code, param=param)


def as_api_error(error: Exception) -> ApiError:
    """An error of the model or the home as one of the API."""
    advice = getattr(error, "advice", "")
    text = f"{error}. {advice[:1].upper()}{advice[1:]}" if advice else str(error)
    match error:
        case UnknownModel():
            return ApiError(404, text, code="model_not_found", param="model")
        case GenerationRefused(about="prompt"):
            return ApiError(400, text, code="invalid_value", param="messages")
        case GenerationRefused(about="context"):
            return ApiError(400, text, code="context_length_exceeded", param="messages")
        case GenerationRefused(about="memory"):
            return ApiError(503, text, code="memory_short", retry_after_s=RETRY_LATER_S)
        case ProcessEnded():
            again_s = RETRY_LATER_S if error.out_of_memory else RETRY_NOW_S
            return ApiError(503, text, code="process_ended", retry_after_s=again_s)
        case ApiError():
            return error
        case _ if exit_code_of(error) is None:
            return ApiError(500, f"keepstep has a bug: {type(error).__name__}: {error}", code="internal_error")
        case _:
            return ApiError(500, text, code="model_unusable")
