"""The web application of `keepstep serve`: models, chats and texts to continue, in the form of OpenAI's API."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from cli.arguments.resolve import models
from cli.errors import UserError
from cli.generate.models import find_model
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from cli.serve.answers import AnswerStream, Shape, error_response, json_response, whole_answer
from cli.serve.engine import Beginning, Engine
from cli.serve.errors import ApiError
from cli.serve.requests import Question, read_chat, read_completion
from cli.web.guard import Guard
from journal.errors import JournalError

BODY_BYTES_MAX = 8 * 2**20
"""More than any model takes, and less than a message to the process that generates text may have."""

HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}

CLIENT_LEFT = 499
"""Status of an answer that nobody receives, as nginx logs it."""


def make_app(home: Home, token: str, hosts: list[str], engine: Engine) -> Starlette:
    """The application for one home. `hosts`: the Host headers that it answers (protects from DNS rebinding)."""

    @contextlib.asynccontextmanager
    async def running(_: Starlette) -> AsyncIterator[None]:
        engine.start()
        try:
            yield
        finally:
            await run_in_threadpool(engine.close)

    app = Starlette(
        routes=[
            Route("/v1/models", _models),
            Route("/v1/models/{model:path}", _model),
            Route("/v1/chat/completions", _answers(read_chat), methods=["POST"]),
            Route("/v1/completions", _answers(read_completion), methods=["POST"]),
        ],
        middleware=[Middleware(Access, token, hosts)],
        exception_handlers={
            HTTPException: _http_failed,
            **dict.fromkeys((ApiError, UserError, JournalError, OSError, Exception), _failed),
        },
        lifespan=running,
    )
    app.state.home, app.state.engine = home, engine
    return app


class Access(Guard):
    """Middleware: checks the Host header and the key of every request, and adds the headers of every answer.

    Not Starlette's TrustedHostMiddleware: its refusals are plain text, of which OpenAI's client shows nothing.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: list[str]) -> None:
        super().__init__(app, HEADERS)
        self._expected = f"Bearer {token}".encode()
        self._hosts = [host.lower() for host in hosts]

    def refusal(self, scope: Scope) -> ASGIApp | None:
        """400 or 401."""
        error = self._error(Headers(scope=scope))
        return None if error is None else error_response(error)

    def _error(self, headers: Headers) -> ApiError | None:
        host = re.sub(r":\d*$", "", headers.get("host", "").lower())
        if not any(host == each or (each.startswith("*.") and host.endswith(each[1:])) for each in self._hosts):
            text = f"the host name {host!r} is not allowed. `keepstep serve --allowed-host NAME` allows one"
            return ApiError(400, text, code="wrong_host")
        if not secrets.compare_digest(headers.get("authorization", "").encode(), self._expected):
            text = "the API key is missing or wrong. `keepstep serve` prints where it is"
            return ApiError(401, text, code="invalid_api_key")
        return None


async def _failed(_: Request, error: Exception) -> Response:
    return error_response(error)


async def _http_failed(request: Request, error: Exception) -> Response:
    """A path or a method that is not there."""
    assert isinstance(error, HTTPException)
    what = "there is no" if error.status_code == 404 else "wrong method for"
    text = f"{what} {request.method} {request.url.path}. See docs/reference/serve-api.md"
    return error_response(ApiError(error.status_code, text, code="unknown_url"))


# -- models -----------------------------------------------------------------------------------------------------------


async def _models(request: Request) -> Response:
    return json_response({"object": "list", "data": await run_in_threadpool(_read_models, request.app.state.home)})


async def _model(request: Request) -> Response:
    def read(home: Home, name: str) -> dict[str, Any]:
        find_model(home, name)
        return next((each for each in _read_models(home) if each["id"] == name), _entry(home, name))

    return json_response(await run_in_threadpool(read, request.app.state.home, request.path_params["model"]))


def _read_models(home: Home) -> list[dict[str, Any]]:
    state = load_state(home)[0].state
    made = {each.id: each.made_at for each in state.retention.versions}
    return [_entry(home, name, made.get(name)) for name, *_ in models(state)]


def _entry(home: Home, name: str, made_at: float | None = None) -> dict[str, Any]:
    """A model. Only versions have a time; the others get that of keepstep.toml, which says what `base` is."""
    created = int(home.config.stat().st_mtime if made_at is None else made_at)
    return {"id": name, "object": "model", "created": created, "owned_by": "keepstep"}


# -- answers ----------------------------------------------------------------------------------------------------------


def _answers(read: Callable[[bytes], Question]) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint whose body `read` reads."""

    async def answer(request: Request) -> Response:
        question = read(await _body(request))
        return await _unless_left(request, _answer(request.app.state, question))

    return answer


async def _answer(state: Any, question: Question) -> Response:
    """The answer once it begins, or an error with its own status."""
    await run_in_threadpool(find_model, state.home, question.model)  # a wrong name need not wait
    engine: Engine = state.engine
    ticket = engine.submit(question)
    is_streamed = False
    try:
        beginning = await ticket.next()
        assert isinstance(beginning, Beginning)
        shape = Shape(question, beginning)
        if question.stream:
            is_streamed = True
            return AnswerStream(engine, ticket, shape)
        return await whole_answer(ticket, shape)
    finally:
        if not is_streamed:
            engine.finish(ticket)


async def _body(request: Request) -> bytes:
    """The body. One that is too large is read to its end, and not kept: else the client could not read the answer."""
    body, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= BODY_BYTES_MAX:
            body += chunk
    if size > BODY_BYTES_MAX:
        raise ApiError(413, f"the body has more than {BODY_BYTES_MAX >> 20} MiB. Shorten the dialogue")
    return bytes(body)


async def _unless_left(request: Request, answer: Awaitable[Response]) -> Response:
    """The answer; it is cancelled if the client closes the connection first."""
    found = Response(status_code=CLIENT_LEFT)
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        try:
            found = await answer
        except Exception as error:  # noqa: BLE001 - raised below, outside of the group
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return found
