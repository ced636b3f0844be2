"""SIGTERM and SIGINT, taken over for the time of a block."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def taken_over(
    wakeup_fd: int, on_signal: Callable[[], None], numbers: Sequence[int] = (signal.SIGTERM, signal.SIGINT)
) -> Iterator[None]:
    """Call `on_signal` for each, and write to `wakeup_fd` so that whoever waits there wakes. Given back behind it,
    unless somebody else has taken them over meanwhile."""

    def ours(*_: object) -> None:
        on_signal()

    before = {number: signal.signal(number, ours) for number in numbers}
    fd_before = signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(fd_before)
        for number, handler in before.items():
            if signal.getsignal(number) is ours:
                signal.signal(number, handler)


def ignored(numbers: Sequence[int] = (signal.SIGTERM, signal.SIGINT)) -> None:
    """From here on they mean nothing: this process is on its way out. One that came then would end it with the wrong
    exit code."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
