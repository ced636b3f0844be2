"""Answers in the form of OpenAI's API: whole, or as server-sent events."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from cli.generate.process import Answer
from cli.serve.engine import Beginning, Engine, Ticket
from cli.serve.errors import as_api_error
from cli.serve.requests import Question
from events.generation import Finish

FINISH: Mapping[Finish, str] = {"end": "stop", "stop_text": "stop", "length": "length", "context": "length"}
"""OpenAI's words. An answer that was stopped is read by nobody."""

Json = dict[str, Any]


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def error_response(error: Exception) -> Response:
    """The answer to a request that failed."""
    found = as_api_error(error)
    return json_response(found.body, found.status, found.headers)


def fingerprint(beginning: Beginning) -> str:
    """The checkpoint or version that answers, the device and the data type: what decides the answer to a seed."""
    source, loaded = beginning.loaded.model.source, beginning.loaded.loaded
    return f"{source.checkpoint or source.version or 'base'}/{loaded.device}/{loaded.dtype}"


class Shape:
    """The JSON of one answer to a chat, or to a text to continue."""

    def __init__(self, question: Question, beginning: Beginning) -> None:
        self._plain = question.plain
        self._kind = "text_completion" if question.plain else "chat.completion"
        self._prompt_tokens = beginning.started.prompt_tokens
        self._common = {
            "id": f"{'cmpl' if question.plain else 'chatcmpl'}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": question.model,
            "system_fingerprint": fingerprint(beginning),
        }

    def whole(self, answer: Answer) -> Json:
        """The complete answer."""
        message: Json = {"role": "assistant", "content": answer.text, "refusal": None}
        content: Json = {"text": answer.text} if self._plain else {"message": message}
        return {**self._with(self._kind, content, FINISH[answer.finish]), "usage": self.usage(answer)}

    def chunk(self, text: str, finish: str | None = None, *, first: bool = False) -> Json:
        """A piece of a stream."""
        if self._plain:
            return self._with(self._kind, {"text": text}, finish)
        delta: Json = {"role": "assistant", "content": text} if first else {"content": text}
        return self._with(f"{self._kind}.chunk", {"delta": {} if finish else delta}, finish)

    def end(self, answer: Answer) -> Json:
        """The last piece of a stream, which says why it ends."""
        return self.chunk("", FINISH[answer.finish])

    def usage_chunk(self, answer: Answer) -> Json:
        """The piece of a stream that has the numbers of tokens."""
        whole = self.chunk("")
        return {**whole, "choices": [], "usage": self.usage(answer)}

    def usage(self, answer: Answer) -> Json:
        """The numbers of tokens. Those of the answer include the one that ends it."""
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": answer.tokens,
            "total_tokens": self._prompt_tokens + answer.tokens,
        }

    def _with(self, kind: str, content: Json, finish: str | None) -> Json:
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish}
        return {**self._common, "object": kind, "choices": [choice]}


async def whole_answer(ticket: Ticket, shape: Shape) -> Response:
    """Wait for the complete answer. Raises the error of the answer."""
    while not isinstance(piece := await ticket.next(), Answer):
        pass
    return json_response(shape.whole(piece))


class AnswerStream(StreamingResponse):
    """An answer as server-sent events. A client that leaves stops the generation."""

    def __init__(self, engine: Engine, ticket: Ticket, shape: Shape) -> None:
        self._engine = engine
        self._ticket = ticket
        super().__init__(_events(ticket, shape), media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; free the place in the queue at the end."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._engine.finish(self._ticket)


async def _events(ticket: Ticket, shape: Shape) -> AsyncIterator[bytes]:
    with_usage = ticket.question.with_usage
    no_usage: Json = {"usage": None} if with_usage else {}
    if not ticket.question.plain:
        yield _event({**shape.chunk("", first=True), **no_usage})
    while True:
        try:
            piece = await ticket.next()
        except Exception as error:  # noqa: BLE001 - the status is sent already: the error is an event
            yield _event(as_api_error(error).body)
            return
        match piece:
            case str():
                yield _event({**shape.chunk(piece), **no_usage})
            case Answer():
                yield _event({**shape.end(piece), **no_usage})
                if with_usage:
                    yield _event(shape.usage_chunk(piece))
                yield b"data: [DONE]\n\n"
                return
            case _:
                raise AssertionError(piece)


def _event(value: Json) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
