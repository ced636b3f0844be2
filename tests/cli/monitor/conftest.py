"""A home with jobs, versions, a backup and failures, which nothing trains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from cli.home.paths import Home
from cli.monitor.access import TOKEN
from cli.monitor.app import make_app
from cli.web.token import read_token
from tests.homes.old_home import HERE, unpack


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """The home that was made before the renaming."""
    return Home(unpack(HERE / "before-renaming.tar.zst", tmp_path))


BASE = "http://127.0.0.1:8080"


@pytest.fixture
def anyone(home: Home) -> Iterator[TestClient]:
    """A browser without the token."""
    with TestClient(make_app(home, read_token(home, TOKEN), ["127.0.0.1"]), base_url=BASE) as client:
        yield client


@pytest.fixture
def owner(home: Home, anyone: TestClient) -> TestClient:
    """A browser that knows the token."""
    anyone.headers["Authorization"] = f"Bearer {read_token(home, TOKEN)}"
    return anyone
