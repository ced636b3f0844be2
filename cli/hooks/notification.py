"""Sends a notification, as a process of its own: `python -P -m cli.hooks.notification`, the message as JSON on its
input.

apprise speaks to services all over the net, any of which may hang; here that ends with the process. So does a template
that would run for ever. Of an address only its kind is ever printed: the rest of it is a password, mostly.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec
from msgspec import Struct

from gpu.runtime.streams import prepare_streams


class Message(Struct, frozen=True):
    """What is to be sent, and where."""

    urls: tuple[str, ...]
    template: str
    summary: dict[str, Any]


def main() -> None:
    """Send it; what did not work is said, and is the exit code."""
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
    """The template with the summary in it; a template that is wrong does not cost the message."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        return ImmutableSandboxedEnvironment().from_string(message.template).render(message.summary)
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        print(f"hooks.notify_template is wrong, and the plain message is sent: {error}")
        return str(message.summary.get("message", ""))


def _send(apprise: Any, url: str, summary: dict[str, Any], body: str) -> str | None:
    """Why it could not be sent there; None if it was."""
    kind = url.partition("://")[0]
    one = apprise.Apprise()
    if not one.add(url):
        return f"{kind}: apprise does not understand this address"
    if not one.notify(title=str(summary.get("title", "keepstep")), body=body):
        return f"{kind}: it was not taken"
    print(f"{kind}: sent")
    return None


if __name__ == "__main__":
    main()
