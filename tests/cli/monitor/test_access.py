"""Who may use the monitor."""

from __future__ import annotations

from typing import Any

from starlette.routing import Route
from starlette.testclient import TestClient

from cli.home.paths import Home
from cli.monitor.access import TOKEN
from cli.web.token import read_token


def api_routes(client: TestClient) -> list[Route]:
    app: Any = client.app
    return [route for route in app.routes if isinstance(route, Route) and route.path.startswith("/api/")]


def test_nothing_of_the_api_answers_without_the_token(anyone: TestClient) -> None:
    """Another user of the machine can connect to a loopback address, but cannot read the home."""
    routes = api_routes(anyone)
    assert len(routes) > 8
    for route in routes:
        for method in route.methods or ():
            answer = anyone.request(method, route.path.replace("{name}", "pause"))
            assert answer.status_code == 401, (method, route.path)


def test_the_cookie_reads_and_changes_nothing(home: Home, anyone: TestClient) -> None:
    token = read_token(home, TOKEN)
    answer = anyone.post("/api/session", headers={"Authorization": f"Bearer {token}"})
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite=strict" in answer.headers["set-cookie"]
    assert anyone.get("/api/status").status_code == 200
    assert anyone.post("/api/actions/pause").status_code == 401


def test_a_name_that_leads_here_is_refused(owner: TestClient) -> None:
    """DNS rebinding: a foreign page whose name points to this machine."""
    assert owner.get("/api/status", headers={"Host": "evil.example"}).status_code == 400
    assert owner.get("/", headers={"Host": "evil.example"}).status_code == 400
