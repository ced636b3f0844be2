"""One server for all tests of a module, on a real socket, with the tiny model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import uvicorn
from openai import OpenAI

from cli.home.paths import Home
from cli.serve.app import make_app
from cli.serve.engine import Engine
from cli.serve.serve import PORT, TOKEN
from cli.web.listening import listen
from cli.web.token import read_token
from tests.waiting import eventually


class Served(NamedTuple):
    """A server that runs, and a client of it."""

    home: Home
    engine: Engine
    client: OpenAI
    said: list[str]
    port: int


@contextmanager
def served(home: Home, waiting_max: int = 3, keep_loaded_s: float = 300.0) -> Iterator[Served]:
    said: list[str] = []
    engine = Engine(home, "cpu", said.append, waiting_max=waiting_max, keep_loaded_s=keep_loaded_s)
    token = read_token(home, TOKEN)
    listening = listen("127.0.0.1", 0, PORT)
    port = listening.getsockname()[1]
    app = make_app(home, token, ["127.0.0.1"], engine)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    eventually(lambda: server.started)
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=token, max_retries=0, timeout=120.0)
    try:
        yield Served(home, engine, client, said, port)
    finally:
        client.close()
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture(scope="module")
def api(consolidated_once: Path, warm_module: None) -> Iterator[Served]:
    """For the home that no test changes."""
    with served(Home(consolidated_once)) as running:
        yield running


@pytest.fixture
def serve(warm: None) -> Callable[..., AbstractContextManager[Served]]:
    """`with serve(home) as api`: a separate server."""
    return served
