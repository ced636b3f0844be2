"""Handle SIGTERM, SIGINT and SIGHUP for the time of a block."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that ask a process to stop. SIGHUP means that the terminal was closed or the connection was lost."""


@contextmanager
def handle_signals(
    wakeup_fd: int, on_signal: Callable[[str], None], numbers: Sequence[int] = STOPPING
) -> Iterator[None]:
    """Call `on_signal` with the name of each signal, and write a byte to `wakeup_fd`, which ends a wait on it. Restore
    the earlier handlers after the block, except one that was replaced within the block.

    An ignored SIGHUP (`nohup`) stays ignored. A SIGHUP and the first other signal count as one: a terminal that closes
    sends SIGHUP several times, systemd sends it together with SIGTERM, and a second signal means "at once".
    """
    delivered, others = 0, 0

    def handler(number: int, _frame: object) -> None:
        nonlocal delivered, others
        others += number != signal.SIGHUP
        if delivered < max(1, others):
            delivered += 1
            on_signal(signal.Signals(number).name)

    handled = [each for each in numbers if each != signal.SIGHUP or signal.getsignal(each) is not signal.SIG_IGN]
    earlier = {number: signal.signal(number, handler) for number in handled}
    earlier_fd = signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(earlier_fd)
        for number, each in earlier.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, each)


def ignore_signals(numbers: Sequence[int] = STOPPING) -> None:
    """Ignore signals from now on: this process is about to end, and a signal would replace its exit code."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
