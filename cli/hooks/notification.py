"""Send a notification, in a separate process: `python -P -m cli.hooks.notification`, with the message as JSON on stdin.

apprise connects to services that may hang, and a template may loop for ever; the timeout ends the process. Only the
scheme of an address is printed: the rest often contains a password.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec
from msgspec import Struct

from gpu.runtime.streams import prepare_streams


class Message(Struct, frozen=True):
    """The summary of an event, and where to send it."""

    urls: tuple[str, ...]
    template: str
    summary: dict[str, Any]


def main() -> None:
    """Send the message. Failures are printed and set the exit code."""
    prepare_streams()
    message = msgspec.json.decode(sys.stdin.buffer.read(), type=Message)
    try:
        import apprise
    except ImportError:
        sys.exit("notifications need apprise: `pip install 'keepstep[notify]'`")
    body = text_of(message)
    failed = [problem for url in message.urls if (problem := _send(apprise, url, message.summary, body))]
    if failed:
        sys.exit("; ".join(failed))


def text_of(message: Message) -> str:
    """Render the template; if it is wrong, return the plain message."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        return ImmutableSandboxedEnvironment().from_string(message.template).render(message.summary)
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        print(f"hooks.notify_template is wrong, so the plain message is sent: {error}")
        return str(message.summary.get("message", ""))


def _send(apprise: Any, url: str, summary: dict[str, Any], body: str) -> str | None:
    """Send to one address. Returns the problem; None: sent."""
    kind = url.partition("://")[0]
    one = apprise.Apprise()
    if not one.add(url):
        return f"{kind}: apprise does not understand this address"
    if not one.notify(title=str(summary.get("title", "keepstep")), body=body):
        return f"{kind}: the service did not accept it"
    print(f"{kind}: sent")
    return None


if __name__ == "__main__":
    main()
