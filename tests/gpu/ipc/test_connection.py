"""The socket's framing."""

from __future__ import annotations

from pathlib import Path

import pytest

from events.messages import Committed, Hello, Yield
from gpu.errors import ProtocolViolation
from gpu.ipc import connection

HELLO = Hello(attempt=0, pid=7)


def test_messages_arrive_whole_however_the_bytes_are_cut() -> None:
    data = connection.encode(HELLO) * 3
    for size in range(1, len(data)):
        reader = connection.fact_reader()
        read = [fact for at in range(0, len(data), size) for fact in reader.feed(data[at : at + size])]
        assert read == [HELLO] * 3


@pytest.mark.parametrize(
    "line", [b"hello", b"{}", b'{"fact":"nonsense","attempt":1}', b"\xff\xfe", b'{"fact":"hello"}']
)
def test_garbage_is_named_after_the_messages_before_it_and_passed_over(line: bytes) -> None:
    reader = connection.fact_reader()
    assert reader.feed(connection.encode(HELLO) + line + b"\n" + connection.encode(HELLO)) == [HELLO]
    with pytest.raises(ProtocolViolation) as garbage:
        reader.feed(b"")
    assert garbage.value.line == line
    assert reader.feed(b"") == [HELLO]


def test_an_endless_line_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_LINE_BYTES", 100)
    reader = connection.fact_reader()
    assert reader.feed(b"x" * 100) == []
    with pytest.raises(ProtocolViolation):
        reader.feed(b"x")


def test_orders_are_not_facts() -> None:
    order = Committed(attempt=1, checkpoint="step-00000001-attempt-0001")
    assert connection.order_reader().feed(connection.encode(order)) == [order]
    with pytest.raises(ProtocolViolation):
        connection.fact_reader().feed(connection.encode(Yield(attempt=1)))


def test_a_socket_may_lie_deeper_than_its_address_can_say(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    with connection.listen(directory / "worker.sock") as listener:
        assert (directory / "worker.sock").stat().st_mode & 0o777 == 0o600
        with connection.connect(directory / "worker.sock") as ours:
            theirs, _ = listener.accept()
            connection.Sender(ours).send(HELLO)
            assert connection.fact_reader().feed(theirs.recv(1000)) == [HELLO]
            theirs.close()
