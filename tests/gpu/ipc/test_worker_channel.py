"""Orders in, facts out."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator

import pytest

from events.course import Course, Split
from events.messages import CheckpointWritten, Committed, Heartbeat, OutOfMemory, RunAgain, Shutdown, Yield
from gpu.ipc import connection
from gpu.ipc import worker_channel as module
from gpu.ipc.worker_channel import Heartbeats, SocketChannel
from tests.gpu.helpers import FakeChannel

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
"""Where a process would end, its reading thread does."""

CHECKPOINT = "step-00000001-attempt-0001"


class Ends:
    """A worker channel and the daemon's end of its socket; `left` is how the process would have ended."""

    def __init__(self) -> None:
        self.left: list[int] = []
        ours, self.theirs = socket.socketpair()
        before = set(threading.enumerate())
        self.channel = SocketChannel(ours)
        (self.thread,) = set(threading.enumerate()) - before
        self.daemon = connection.Sender(self.theirs)

    def exit_process(self, code: int) -> None:
        self.left.append(code)
        sys.exit()


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    ends = Ends()
    monkeypatch.setattr(module, "exit_process", ends.exit_process)
    yield ends
    ends.theirs.close()
    ends.thread.join(10)
    assert not ends.thread.is_alive()  # it would end this process once `exit_process` is itself again


def test_heartbeats_come_at_most_once_a_second_unless_they_must() -> None:
    channel = FakeChannel()
    heartbeats = Heartbeats(channel, 7)
    for done in range(1000):
        heartbeats.beat("step", done, 1000)
    assert channel.facts == [Heartbeat(attempt=7, phase="step", done=0, total=1000)]
    heartbeats.beat("load", 1, 1, force=True)
    assert len(channel.facts) == 2


def test_two_phases_at_once_do_not_hide_each_other() -> None:
    """A checkpoint is written while steps continue, and each phase has its own deadline."""
    channel = FakeChannel()
    heartbeats = Heartbeats(channel, 7)
    for done in range(100):
        heartbeats.beat("step", done, 100)
        heartbeats.beat("checkpoint", done, 100)
    assert [beat.phase for beat in channel.of(Heartbeat)] == ["step", "checkpoint"]


def test_a_yield_is_seen_by_the_work_in_progress_and_then_answered_as_an_order(ends: Ends) -> None:
    assert not ends.channel.yield_requested()
    ends.daemon.send(Yield(attempt=3))
    ends.daemon.send(Committed(attempt=3, checkpoint=CHECKPOINT))
    ends.channel.wait_committed(CHECKPOINT)
    assert ends.channel.is_committed(CHECKPOINT)
    assert ends.channel.yield_requested()
    assert ends.channel.next_order() == Yield(attempt=3)
    assert not ends.channel.yield_requested()


@pytest.mark.parametrize(
    ("data", "code"), [(b"", 0), (connection.encode(Shutdown(attempt=1)), 0), (b"what?\n", 1), (b'{"order":"ya', 0)]
)
def test_the_process_ends_with_its_daemon(ends: Ends, data: bytes, code: int) -> None:
    ends.theirs.sendall(data)
    ends.theirs.shutdown(socket.SHUT_WR)
    ends.thread.join(10)
    assert ends.left == [code]


def test_facts_of_several_threads_arrive_whole(ends: Ends) -> None:
    reader = connection.fact_reader()
    fact = CheckpointWritten(
        attempt=1,
        checkpoint=CHECKPOINT,
        global_step=1,
        step=1,
        parent=None,
        size_bytes=1,
        manifest_sha256="0" * 64,
        reason="end",
    )
    threads = [threading.Thread(target=lambda: [ends.channel.send(fact) for _ in range(200)]) for _ in range(4)]  # type: ignore[func-returns-value]
    for thread in threads:
        thread.start()
    facts = []  # type: ignore[var-annotated]
    while len(facts) < 800:
        facts += reader.feed(ends.theirs.recv(65536))
    assert facts == [fact] * 800


def test_a_step_that_does_not_fit_waits_for_its_course(ends: Ends) -> None:
    """Told first, then waited: the daemon answers when it is journaled."""
    course = Course(splits=(Split(step=2, parts=2, steps=64),))
    fact = OutOfMemory(attempt=3, global_step=7, step=2, sequences=4, during="gradients", message="no memory")
    answers: list[Course] = []
    asking = threading.Thread(target=lambda: answers.append(ends.channel.request_course(fact)))
    asking.start()
    received = b""
    while not received.endswith(b"\n"):
        received += ends.theirs.recv(65536)
    assert received == connection.encode(fact)
    assert not answers
    ends.daemon.send(RunAgain(attempt=3, course=course))
    asking.join(10)
    assert answers == [course]
