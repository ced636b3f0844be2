"""Middleware that refuses requests and adds headers to every answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Guard(ABC):
    """Asks `refusal` about each request."""

    def __init__(self, app: ASGIApp, headers: Mapping[str, str]) -> None:
        """`headers`: those of every answer, refusals too."""
        self._app, self._headers = app, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        answer = self.refusal(scope) or self._app
        await answer(scope, receive, send_with_headers)

    @abstractmethod
    def refusal(self, scope: Scope) -> ASGIApp | None:
        """The answer that refuses the request; None: it is allowed."""
