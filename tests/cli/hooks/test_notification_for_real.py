"""Notifications through apprise itself, out of a daemon's life, to a server here: one that listens, hangs, refuses."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cli.diagnosis.logs import Filter, last_lines
from cli.home.paths import Home
from events import kinds
from events.kinds import AnyEvent

pytest.importorskip("apprise", reason="apprise is not installed: pip install 'keepstep[notify]'")

Events = Callable[[], list[AnyEvent]]
TIMEOUT_S = 20.0
SHORT_S = 2.0


class Server(ThreadingHTTPServer):
    """On a port of this machine; what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[dict[str, str]] = []
        self.asked = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()

    @property
    def url(self) -> str:
        """As apprise writes it."""
        return f"json://user:secret@127.0.0.1:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Server)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.set()
        self.server.may_answer.wait(TIMEOUT_S)
        self.server.got.append(json.loads(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quietly."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield made
    finally:
        made.may_answer.set()
        made.shutdown()
        made.server_close()


def notify(home: Home, url: str, timeout_s: float = TIMEOUT_S) -> None:
    """The config asks for one at the end of each file."""
    before, section, text = home.config.read_text(encoding="utf-8").partition("[hooks]")
    for key, value in (
        ("notify", json.dumps([url])),
        ("notify_on", '["job_finished"]'),
        ("notify_template", json.dumps("{{ job_name }}: step {{ global_step }}")),
        ("timeout_s", str(timeout_s)),
    ):
        line = next(line for line in text.splitlines() if line.startswith(f"{key} ="))
        text = text.replace(line, f"{key} = {value}", 1)
    home.config.write_text(f"{before}{section}{text}", encoding="utf-8")


def logged(home: Home) -> str:
    """What the log says of hooks."""
    lines = last_lines(home.logs, Filter(), 200)
    return "\n".join(str(line) for line in lines)


def test_a_trained_file_is_notified(
    home: Home, drop: Callable[..., Path], run: Callable[..., list[str]], server: Server
) -> None:
    """By the daemon, in a separate process, with the rendered template; the password is in no log."""
    notify(home, server.url)
    drop("a.jsonl", "ok ok")
    run()
    ((title, message),) = [(each["title"], each["message"]) for each in server.got]
    assert (title, message) == ("keepstep: a file is trained", "a.jsonl: step 2")
    assert "json: sent" in logged(home)
    assert "secret" not in logged(home)


def test_a_server_that_hangs_costs_training_nothing(
    home: Home, drop: Callable[..., Path], run: Callable[..., list[str]], events: Events, server: Server
) -> None:
    """Later files are trained while it hangs; the timeout ends it, and the log says so."""
    server.may_answer.clear()
    notify(home, server.url, SHORT_S)
    for name in "abc":
        drop(f"{name}.jsonl", f"ok ok ok-{name}")
    began = time.monotonic()
    run()
    assert server.asked.is_set()
    assert time.monotonic() - began < TIMEOUT_S
    assert sum(isinstance(event, kinds.JobTrained) for event in events()) == 3
    assert not [event for event in events() if isinstance(event, kinds.AttemptFailed | kinds.AttemptInterrupted)]
    assert "did not end within 2 s and was ended" in logged(home)


def test_a_server_that_is_not_there_costs_training_nothing(
    home: Home, drop: Callable[..., Path], run: Callable[..., list[str]], events: Events
) -> None:
    """Refused at once; said in the log, without the password."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    notify(home, f"json://user:secret@127.0.0.1:{port}/")
    drop("a.jsonl", "ok ok")
    run()
    assert sum(isinstance(event, kinds.JobTrained) for event in events()) == 1
    assert "json: the service did not accept it" in logged(home)
    assert "secret" not in logged(home)
