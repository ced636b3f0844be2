"""Messages to systemd, and the socket that they are sent to."""

from __future__ import annotations

import secrets
import socket
import sys
from pathlib import Path

import pytest

from cli.supervision import sd_notify
from cli.supervision.sd_notify import Notifier, parse_datagram


def listener_on(address: str | bytes) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(address)
    listener.settimeout(5)
    return listener


def test_lines_are_sent_in_one_datagram(tmp_path: Path) -> None:
    """As sd_notify(3) has it: lines of NAME=value."""
    with listener_on(str(tmp_path / "s")) as listener:
        Notifier(str(tmp_path / "s")).send(sd_notify.READY, sd_notify.status("waits\nfor  files"), sd_notify.ALIVE)
        assert listener.recv(4096) == b"READY=1\nSTATUS=waits for files\nWATCHDOG=1"


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_an_abstract_socket_is_reached() -> None:
    """`@name` stands for a name that begins with a zero byte."""
    name = f"keepstep-{secrets.token_hex(8)}"
    with listener_on(b"\0" + name.encode()) as listener:
        Notifier(f"@{name}").send(sd_notify.ALIVE)
        assert listener.recv(4096) == b"WATCHDOG=1"


def test_no_child_inherits_the_variables(tmp_path: Path) -> None:
    """A worker that sent heartbeats would keep a hung daemon alive."""
    environment = {"NOTIFY_SOCKET": str(tmp_path / "s"), "WATCHDOG_USEC": "1", "WATCHDOG_PID": "2", "HOME": "/"}
    assert Notifier.from_environment(environment).is_listening
    assert environment == {"HOME": "/"}


@pytest.mark.parametrize("address", [None, "", "relative", "vsock:2:1"])
def test_without_a_socket_that_is_ours_to_use_nothing_is_sent(address: str | None) -> None:
    """Not under systemd: no effect."""
    notifier = Notifier(address)
    assert not notifier.is_listening
    notifier.send(sd_notify.READY)


def test_sending_never_blocks(tmp_path: Path) -> None:
    """A listener that is gone or reads nothing never delays the daemon."""
    Notifier(str(tmp_path / "gone")).send(sd_notify.READY)
    with listener_on(str(tmp_path / "s")):
        notifier = Notifier(str(tmp_path / "s"))
        for _ in range(5_000):
            notifier.send(sd_notify.ALIVE)


def test_a_datagram_is_parsed() -> None:
    """Times in microseconds; lines without `=` are ignored."""
    said = (
        "\n".join([sd_notify.watchdog_timeout(1.5), sd_notify.extend_timeout(2), "rubbish", "A=b=c"]).encode()
        + b"\nX=\xff"
    )
    assert parse_datagram(said) == {
        "WATCHDOG_USEC": "1500000",
        "EXTEND_TIMEOUT_USEC": "2000000",
        "A": "b=c",
        "X": "\ufffd",
    }
