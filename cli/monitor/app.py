"""The web application of the monitor: one page, JSON views, one stream, and actions.

Requests run in threads, because every view reads files. Errors that a user can cause are JSON with a sentence.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec
import psutil
from msgspec import Struct
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from cli.commands.lineage import lineage_report, read_lineage
from cli.commands.models.difference import difference
from cli.commands.queue import queue_rows
from cli.diagnosis.failures import read_failures
from cli.errors import UserError, exit_code_of
from cli.home.identity import daemon_is_alive
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from cli.monitor import actions
from cli.monitor.access import Access, start_session
from cli.monitor.feed import Feed
from cli.monitor.prometheus import CONTENT_TYPE, exposition
from cli.monitor.uploads import Uploads
from cli.output.times import with_iso_times
from cli.status.report import status_report
from core.errors import Refused
from events.text import in_all_texts
from events.values import Priority
from journal.errors import JournalError
from projections.evaluation.marks import verdict
from projections.machine_samples import Sample, read_samples, thinned
from projections.status import plain

PAGE = Path(__file__).parent / "page"

FOLLOW_EVERY_S = 0.25
"""Time between two looks at the journal while a page is open: a step appears at once to the eye."""

STATUS_EVERY_S = 1.0

FAILURES_SHOWN = 20

QUEUE_SHOWN = 500

BODY_BYTES_MAX = 10_000

SAMPLES_SHOWN = 1_000
"""Samples of the machine in one answer: about the pixels of a chart."""


def make_app(home: Home, token: str, hosts: list[str]) -> Starlette:
    """The application for one home. `hosts`: the Host headers that it answers (protects from DNS rebinding)."""
    app = Starlette(
        routes=[
            Route("/", lambda _: FileResponse(PAGE / "index.html")),
            Route("/api/session", start_session, methods=["POST"]),
            Route("/api/status", _view(lambda home, _: {**status_report(home), "home": home.root.name})),
            Route("/api/metrics", _metrics),
            Route("/api/samples", _samples),
            Route("/api/self_correction", _correction),
            Route("/api/evaluation", _evaluation),
            Route("/api/memory_stats", _view(lambda home, _: status_report(home)["machine"])),
            Route("/api/queue", _view(_queue)),
            Route("/api/models", _view(_models)),
            Route("/api/difference", _view(_difference)),
            Route("/api/machine", _view(_machine)),
            Route(
                "/api/failures", _view(lambda home, _: [plain(each) for each in read_failures(home, FAILURES_SHOWN)])
            ),
            Route("/api/lineage", _view(lambda home, _: lineage_report(read_lineage(home, None), None))),
            Route("/api/journal", _tail),
            Route("/api/stream", _stream),
            Route("/api/actions/{name}", _action, methods=["POST"]),
            Route("/api/uploads", _upload, methods=["POST"]),
            Route("/api/uploads/{id}", _finish_upload, methods=["POST", "DELETE"]),
            Route("/metrics", _prometheus),
            Mount("/", StaticFiles(directory=PAGE)),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts), Middleware(Access, token)],
        exception_handlers=dict.fromkeys((UserError, Refused, JournalError, OSError, msgspec.MsgspecError), _failed),
    )
    app.state.home, app.state.token = home, token
    app.state.feed, app.state.uploads = Feed(home), Uploads(home)
    return app


def _view(read: Callable[[Home, Request], Any]) -> Callable[[Request], Any]:
    async def view(request: Request) -> Response:
        return _json(await run_in_threadpool(read, request.app.state.home, request))

    return view


def _json(value: Any, status: int = 200) -> Response:
    """A JSON answer; names that are not UTF-8 are escaped."""
    return Response(_text(value), status, media_type="application/json")


async def _failed(_: Request, error: Exception) -> Response:
    if exit_code_of(error) is None and not isinstance(error, msgspec.MsgspecError):
        raise error
    return _json({"error": str(error), "advice": getattr(error, "advice", "")}, 409)


def _queue(home: Home, _: Request) -> dict[str, Any]:
    rows = list(queue_rows(load_state(home)[0].state, alive=daemon_is_alive(home)))
    return {"jobs": rows[:QUEUE_SHOWN], "total": len(rows)}


def _models(home: Home, _: Request) -> dict[str, Any]:
    state = load_state(home)[0].state
    return {
        "head": {"version": state.head.base, "checkpoint": state.head.checkpoint.id if state.head.checkpoint else None},
        "checkpoints": [plain(each) for each in state.head.checkpoints],
        "versions": [plain(each) for each in state.retention.versions],
        "backups": [plain(each) for each in state.retention.backups],
        "detached": [plain(each) for each in state.head.detached],
    }


def _difference(home: Home, request: Request) -> dict[str, Any]:
    one, two = (request.query_params.get(name, "") for name in ("from", "to"))
    found = difference(home, one, two)
    settings, questions = found.pop("settings"), found.pop("questions")
    only = [{"version": name, "parts": parts} for name, parts in found.items()]
    return {"only": only, "settings": settings, "questions": questions}


def _machine(home: Home, request: Request) -> dict[str, Any]:
    samples = read_samples(home.machine_samples, storage=home.storage)
    shown = thinned(samples, min(_integer(request, "points") or SAMPLES_SHOWN, SAMPLES_SHOWN))
    own = psutil.Process()
    times = own.cpu_times()
    return {
        "samples": {name: [getattr(each, name) for each in shown] for name in Sample.__struct_fields__},
        "monitor": {
            "cpu_s": times.user + times.system,
            "wall_s": time.time() - own.create_time(),
            "memory_bytes": own.memory_info().rss,
        },
    }


async def _metrics(request: Request) -> Response:
    feed: Feed = request.app.state.feed

    def read() -> Any:
        feed.catch_up()
        first, last = _integer(request, "from"), _integer(request, "to")
        return feed.chart(first, last, _integer(request, "points") or 1_000)

    return _json(await run_in_threadpool(read))


async def _samples(request: Request) -> Response:
    feed: Feed = request.app.state.feed

    def read() -> Any:
        feed.catch_up()
        return feed.samples(request.query_params.get("prompt"), _integer(request, "step"))

    return _json(await run_in_threadpool(read))


async def _correction(request: Request) -> Response:
    feed: Feed = request.app.state.feed

    def read() -> Any:
        feed.catch_up()
        return feed.correction(_integer(request, "round"))

    return _json(await run_in_threadpool(read))


async def _evaluation(request: Request) -> Response:
    feed: Feed = request.app.state.feed

    def read() -> Any:
        feed.catch_up()
        chart = feed.evaluation()
        folded = load_state(request.app.state.home)[0]
        marks = folded.progress.marks
        verdicts = {
            each.id: verdict(each.id, folded.state, marks.get(each.id)) for each in folded.state.retention.versions
        }
        return {**plain(chart), "verdicts": verdicts}

    return _json(await run_in_threadpool(read))


async def _tail(request: Request) -> Response:
    feed: Feed = request.app.state.feed

    def read() -> Any:
        feed.catch_up()
        return feed.tail(_integer(request, "number") or 100, request.query_params.get("kind"))

    return _json(await run_in_threadpool(read))


def _integer(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None or text == "":
        return None
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{name}={text!r} is not a whole number") from None


async def _prometheus(request: Request) -> Response:
    text = await run_in_threadpool(exposition, request.app.state.home)
    return Response(text, media_type=CONTENT_TYPE)


async def _action(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in actions.ACTIONS:
        raise UserError(f"there is no action {name!r}", f"choose one of {', '.join(actions.ACTIONS)}")
    asked = msgspec.json.decode(await _body(request), type=actions.Request)
    return _json({"done": await run_in_threadpool(actions.act, request.app.state.home, name, asked)})


class Queueing(Struct, forbid_unknown_fields=True):
    """The body of a POST to `/api/uploads/ID`."""

    priority: Priority = "normal"


async def _upload(request: Request) -> Response:
    """The body is the file, `?name=` its name. Answers with the report of the check."""
    name, uploads = request.query_params.get("name", ""), request.app.state.uploads
    if not name:
        raise UserError("the upload has no name", "add ?name=FILE.jsonl to the address")
    upload = await uploads.save(name, request.stream())
    try:
        report = await run_in_threadpool(uploads.check, upload)
    except UserError:
        await run_in_threadpool(uploads.discard, upload)
        raise
    return _json({"id": upload, "report": report})


async def _finish_upload(request: Request) -> Response:
    """POST queues an upload, DELETE discards it."""
    upload, uploads = request.path_params["id"], request.app.state.uploads
    if request.method == "DELETE":
        await run_in_threadpool(uploads.discard, upload)
        return _json({"done": "the file is not queued"})
    asked = msgspec.json.decode(await _body(request), type=Queueing)
    return _json({"done": await run_in_threadpool(uploads.queue, upload, asked.priority)})


async def _body(request: Request) -> bytes:
    """A small JSON body. Raises UserError if it is large."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise UserError(f"the body is larger than {BODY_BYTES_MAX} bytes")
    return body or b"{}"


# -- stream -----------------------------------------------------------------------------------------------------------


async def _stream(request: Request) -> Response:
    """Server-sent events: `records` (with the last seq as id), `status`, and `reload` if records were missed.

    A browser that reconnects sends the id of the last message, and the stream continues after it.
    """
    feed: Feed = request.app.state.feed
    home: Home = request.app.state.home
    last_id = request.headers.get("last-event-id", "")
    after = int(last_id) if last_id.isdecimal() else _integer(request, "after")
    after = await run_in_threadpool(feed.catch_up) if after is None else after

    async def messages() -> AsyncIterator[ServerSentEvent]:
        sent, shown, status_at = after, "", 0.0
        while True:
            await run_in_threadpool(feed.catch_up)
            batch = feed.after(sent)
            if batch.lost:
                yield ServerSentEvent(event="reload", data="")
                return
            if batch.records:
                sent = batch.records[-1].seq
                yield ServerSentEvent(event="records", id=str(sent), data=_text(batch.records))
                continue
            if (now := anyio.current_time()) - status_at >= STATUS_EVERY_S:
                status_at = now
                status = await run_in_threadpool(status_report, home)
                if (text := _text(status)) != shown:
                    shown = text
                    yield ServerSentEvent(event="status", data=text)
            await anyio.sleep(FOLLOW_EVERY_S)

    return EventSourceResponse(messages())


def _text(value: Any) -> str:
    return msgspec.json.encode(in_all_texts(with_iso_times(msgspec.to_builtins(value)))).decode()
