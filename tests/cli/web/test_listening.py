"""Where a server listens."""

from __future__ import annotations

import socket

import pytest

from cli.errors import UserError
from cli.web.listening import is_loopback, listen


def test_only_addresses_of_this_machine_are_loopback() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")
    with pytest.raises(UserError, match="is not an address"):
        is_loopback("my-machine")


def test_a_taken_port_is_passed_over_unless_it_was_asked_for() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with listen("127.0.0.1", None, port) as found:
            assert found.getsockname()[1] > port
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 cannot be used") as caught:
            listen("127.0.0.1", port, port)
        free = int(caught.value.advice.removeprefix("the next free one: --port "))
        with listen("127.0.0.1", free, port):
            assert free > port
