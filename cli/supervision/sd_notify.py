"""What systemd is told of a service, by its own protocol: https://www.freedesktop.org/software/systemd/man/sd_notify.html.

A datagram to the socket that $NOTIFY_SOCKET names, lines of NAME=value. `keepstep run --supervise` listens on such a
socket too, so that one way serves both. Without the variable nothing is sent.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")

SILENCE_S = 40.0
"""A loop that is not heard of for so long hangs. Longer than the 30 s that an append may wait for its lock; and with
its end (3 s), a pause (10 s at most) and a start (a few seconds) it works again in under a minute."""

READY = "READY=1"
STOPPING = "STOPPING=1"
ALIVE = "WATCHDOG=1"


def status(line: str) -> str:
    """What the service does now, in one line."""
    return f"STATUS={' '.join(line.split())}"


def patience(seconds: float) -> str:
    """The next keep-alive may take so long; from it on, what was said with this word is to be said anew."""
    return f"WATCHDOG_USEC={round(seconds * 1e6)}"


def more_time(seconds: float) -> str:
    """A start or an end that takes longer than the unit allows is not stuck, if it is heard of again within this."""
    return f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}"


class Notifier:
    """The sender's end. Never waits, and never fails: whoever does not listen is told nothing."""

    def __init__(self, address: str | None, silence_s: float = SILENCE_S) -> None:
        self.silence_s = silence_s
        """After how long without a keep-alive the listener acts."""
        self._socket: socket.socket | None = None
        if address is not None and address.startswith(("/", "@")):
            self._address = b"\0" + os.fsencode(address[1:]) if address[0] == "@" else os.fsencode(address)
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Notifier:
        """As whoever started this process wants it. The variables are taken away: they are not meant for a child."""
        address, microseconds, _ = (environment.pop(name, None) for name in VARIABLES)
        return cls(address, int(microseconds) / 1e6 if microseconds and microseconds.isdecimal() else SILENCE_S)

    @property
    def is_listening(self) -> bool:
        """Whether somebody wants to know."""
        return self._socket is not None

    def tell(self, *words: str) -> None:
        """Send these in one datagram."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it is gone, or has not read what it has
                self._socket.sendto("\n".join(words).encode(), self._address)


def words_of(datagram: bytes) -> dict[str, str]:
    """What was sent, by name; what is no NAME=value is passed over."""
    lines = datagram.decode(errors="replace").split("\n")
    return {name: value for name, found, value in (line.partition("=") for line in lines) if found}
