"""Access control of the monitor: only programs on this machine that have the token in the home.

The home is private to its owner, but every user of a machine can connect to its loopback addresses. Therefore reading
needs the token too. The page gets it in the fragment of its URL, which browsers send to nobody, and exchanges it for a
cookie that other sites cannot use (SameSite=Strict). A change needs the token itself in a header.
"""

from __future__ import annotations

import hashlib
import secrets

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Scope

from cli.web.guard import Guard

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""Sent with every answer: the page loads nothing from elsewhere, and no other page loads or frames it."""


TOKEN = "monitor-token"  # noqa: S105 - the name of a file
"""In `run/`."""


class Access(Guard):
    """Middleware: checks the token of every request to `/api/`, and adds the security headers to every answer."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        super().__init__(app, HEADERS)
        self._token = token
        self._cookie = cookie_name(token)

    def refusal(self, scope: Scope) -> ASGIApp | None:
        """401 without the token."""
        if not scope["path"].startswith("/api/") or self._may(HTTPConnection(scope), scope["method"]):
            return None
        return JSONResponse({"error": "the token is missing or wrong", "advice": ADVICE}, 401)

    def _may(self, connection: HTTPConnection, method: str) -> bool:
        header = connection.headers.get("authorization", "")
        if secrets.compare_digest(header.encode(), f"Bearer {self._token}".encode()):
            return True
        cookie = connection.cookies.get(self._cookie, "")
        return method in {"GET", "HEAD"} and secrets.compare_digest(cookie.encode(), self._token.encode())


ADVICE = "open the address that `keepstep monitor` prints, or send the header `Authorization: Bearer TOKEN`"


def cookie_name(token: str) -> str:
    """The name of the cookie. Browsers keep one set of cookies for all ports, so each home has its own name."""
    return f"keepstep-{hashlib.sha256(token.encode()).hexdigest()[:8]}"


async def start_session(request: Request) -> JSONResponse:
    """POST /api/session: set the cookie with which this browser reads the views and the stream."""
    token: str = request.app.state.token
    answer = JSONResponse({"ok": True})
    answer.set_cookie(cookie_name(token), token, httponly=True, samesite="strict", path="/api/")
    return answer
