"""SIGTERM, SIGINT and SIGHUP, taken over for the time of a block."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What a person or a system asks a process to stop with. SIGHUP: the terminal was closed, or the connection is gone."""


@contextmanager
def taken_over(wakeup_fd: int, on_signal: Callable[[], None], numbers: Sequence[int] = STOPPING) -> Iterator[None]:
    """Call `on_signal` for each signal, and write to `wakeup_fd` so that whoever waits there wakes. Restore the
    handlers after the block, unless somebody else has taken them over meanwhile.

    An ignored SIGHUP (`nohup`) stays ignored. A SIGHUP and the first other signal count as one: a terminal that closes
    sends it several times, systemd sends it together with SIGTERM, and two signals would mean "at once".
    """
    told, others = 0, 0

    def ours(number: int, _frame: object) -> None:
        nonlocal told, others
        others += number != signal.SIGHUP
        if told < max(1, others):
            told += 1
            on_signal()

    taken = [each for each in numbers if each != signal.SIGHUP or signal.getsignal(each) is not signal.SIG_IGN]
    before = {number: signal.signal(number, ours) for number in taken}
    fd_before = signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(fd_before)
        for number, handler in before.items():
            if signal.getsignal(number) is ours:
                signal.signal(number, handler)


def ignored(numbers: Sequence[int] = STOPPING) -> None:
    """From here on they mean nothing: this process is on its way out. One that came then would end it with the wrong
    exit code."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
