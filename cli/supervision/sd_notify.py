"""The sd_notify protocol of systemd: https://www.freedesktop.org/software/systemd/man/sd_notify.html.

A service sends datagrams with lines of NAME=value to the socket that $NOTIFY_SOCKET names. `keepstep run --supervise`
listens on such a socket too, so the daemon needs only this protocol. Without the variable nothing is sent.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")

WATCHDOG_TIMEOUT_S = 40.0
"""A loop that sends no heartbeat for this long hangs. It is longer than the 30 s that an append may wait for its lock.
With the end of the daemon (3 s), a pause (at most 10 s) and a start (a few seconds), work resumes within a minute."""

READY = "READY=1"
STOPPING = "STOPPING=1"
ALIVE = "WATCHDOG=1"


def status(line: str) -> str:
    """What the service does now, in one line."""
    return f"STATUS={' '.join(line.split())}"


def watchdog_timeout(seconds: float) -> str:
    """Change the time within which each heartbeat must arrive."""
    return f"WATCHDOG_USEC={round(seconds * 1e6)}"


def extend_timeout(seconds: float) -> str:
    """Extend the timeout of a start or a stop: the next message arrives within this time."""
    return f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}"


class Notifier:
    """Sends messages. It never waits and never fails: without a listener, messages are dropped."""

    def __init__(self, address: str | None, timeout_s: float = WATCHDOG_TIMEOUT_S) -> None:
        self.timeout_s = timeout_s
        """The listener acts after this time without a heartbeat."""
        self._socket: socket.socket | None = None
        if address is not None and address.startswith(("/", "@")):
            self._address = b"\0" + os.fsencode(address[1:]) if address[0] == "@" else os.fsencode(address)
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Notifier:
        """A notifier for the process that started this one. Removes the variables, so that no child inherits them."""
        address, microseconds, _ = (environment.pop(name, None) for name in VARIABLES)
        timeout_s = int(microseconds) / 1e6 if microseconds and microseconds.isdecimal() else WATCHDOG_TIMEOUT_S
        return cls(address, timeout_s)

    @property
    def is_listening(self) -> bool:
        """True if there is a listener."""
        return self._socket is not None

    def send(self, *lines: str) -> None:
        """Send these lines in one datagram."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # the listener is gone, or its queue is full
                self._socket.sendto("\n".join(lines).encode(), self._address)


def parse_datagram(datagram: bytes) -> dict[str, str]:
    """The values of a datagram by name. A line without `=` is ignored."""
    lines = datagram.decode(errors="replace").split("\n")
    return {name: value for name, found, value in (line.partition("=") for line in lines) if found}
