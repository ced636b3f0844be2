"""`keepstep run --supervise`: a small parent that starts the daemon, and starts it again when it crashes or hangs.

What systemd does for a service, where there is no systemd. The daemon beats by the same protocol (`notify.py`), here
on a socket of the supervisor's. How it ended decides:

    exit code 0, 130        it was told to: the supervisor ends too
    exit code 1, 2, 3, 4    a person is needed, and starting it again would change nothing: the same
    all others, signals     a crash: it is started again, after a pause that grows
    silent for too long     it hangs: it is told to abort, which prints where it hangs, and killed; then as a crash

It holds no lock and touches no file of the home: which daemon may run is decided by the daemon's own lock.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from cli.daemon.signals import taken_over
from cli.errors import CRASHED, DAMAGED, REFUSED, STORAGE_FAILED, UserError
from cli.home.paths import Home
from cli.home.subprocesses import command
from cli.supervision.sd_notify import SILENCE_S, words_of
from gpu.runtime.parent import PR_SET_PDEATHSIG

AT_ONCE = 130
USAGE = 2
FINAL = (0, AT_ONCE, REFUSED, USAGE, DAMAGED, STORAGE_FAILED)
"""Exit codes after which the daemon is not started again: it was told to end, or a person is needed."""

START_S = 120.0
"""From start to the first word: Python and its imports, from a cold disk on a busy machine."""

ABORT_S = 3.0
"""What a hung daemon gets to print where it hangs. One that is stopped cannot, and is killed then."""

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 10.0
"""Twice as long after each crash; with SILENCE_S and ABORT_S still under a minute."""

CRASHES_MAX = 20
WITHIN_S = 3600.0
"""So many crashes in so short a time are no bad luck: a person is needed."""


def supervise(home: Home, *, until_idle: bool, write: Callable[[str], None]) -> int:
    """Run the daemon of `home` as a child until it is done; its exit code.

    Raises UserError if it crashes again and again.
    """
    arguments = ["run", "--home", str(home.root), *(["--until-idle"] if until_idle else [])]
    return Supervisor(command("cli", *arguments), write=write).run()


class Supervisor:
    """One daemon after the other. `run` returns the exit code of the last."""

    def __init__(
        self,
        daemon: Sequence[str],
        *,
        write: Callable[[str], None],
        silence_s: float = SILENCE_S,
        first_pause_s: float = FIRST_PAUSE_S,
        crashes_max: int = CRASHES_MAX,
    ) -> None:
        self._command = daemon
        self._write = write
        self._silence_s, self._pause_s, self._crashes_max = silence_s, first_pause_s, crashes_max
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._crashes: deque[float] = deque()

    def run(self) -> int:
        """Raises UserError if it crashes again and again, OSError."""
        with ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="keepstep-"))
            self._address = str(Path(directory) / "notify")
            self._socket = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            self._socket.bind(self._address)
            self._socket.setblocking(False)
            wake_in, wake_out = (stack.enter_context(end) for end in socket.socketpair())
            wake_in.setblocking(False)
            wake_out.setblocking(False)
            self._wake = wake_in
            self._selector = stack.enter_context(selectors.DefaultSelector())
            self._selector.register(self._socket, selectors.EVENT_READ)
            self._selector.register(wake_in, selectors.EVENT_READ)
            stack.enter_context(taken_over(wake_out.fileno(), self._pass_on))
            before = signal.signal(signal.SIGCHLD, lambda *_: None)  # so that its end wakes the selector
            stack.callback(signal.signal, signal.SIGCHLD, before)
            stack.callback(self._end)
            return self._run()

    def _run(self) -> int:
        while True:
            how = self._one_life()
            code = self._exit_code()
            if self._stopping or (how is None and code in FINAL):
                return code if code >= 0 else CRASHED
            pause_s = self._count(how or _in_words(code))
            self._sleep(pause_s)
            if self._stopping:  # told so while nothing ran
                return 0

    def _one_life(self) -> str | None:
        """Start the daemon and watch it to its end; why it had to be ended, None if it ended by itself."""
        supervisor = os.getpid()
        self._receive(0.0)  # what the one before said last
        self._process = process = subprocess.Popen(
            self._command,
            env={**os.environ, "NOTIFY_SOCKET": self._address, "WATCHDOG_USEC": str(round(self._silence_s * 1e6))},
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C on the terminal comes here, and is passed on once
            preexec_fn=lambda: _die_with(supervisor),  # there is no other thread that could hold a lock
        )
        if self._stopping:  # the signal came while it was started
            process.terminate()
        limit_s, received_at = START_S, time.monotonic()
        while process.poll() is None:
            for said in self._receive(1.0):
                received_at = time.monotonic()
                asked_for = said.get("WATCHDOG_USEC", "")
                limit_s = int(asked_for) / 1e6 if asked_for.isdecimal() else self._silence_s
            silence_s = time.monotonic() - received_at
            if silence_s > limit_s and process.poll() is None:
                self._end()
                return f"did not come by for {silence_s:.0f} s: it hung"
        return None

    def _receive(self, seconds: float) -> list[dict[str, str]]:
        """What was said, at the latest after `seconds`; all of it, so that nothing waits unread."""
        self._selector.select(seconds)
        said = []
        with suppress(BlockingIOError):
            while True:
                said.append(words_of(self._socket.recv(65536)))
        with suppress(BlockingIOError):
            while self._wake.recv(4096):
                pass
        return said

    def _count(self, how: str) -> float:
        """Say that it crashed; how long to wait before it is started again. Raises UserError if it was too often."""
        now = time.monotonic()
        self._crashes.append(now)
        while now - self._crashes[0] > WITHIN_S:
            self._crashes.popleft()
        count = len(self._crashes)
        if count >= self._crashes_max:
            raise UserError(
                f"the daemon crashed {count} times within an hour, the last time so: it {how}",
                "`keepstep doctor` looks for what is wrong; nothing that was committed is lost",
                CRASHED,
            )
        pause_s = min(self._pause_s * 2.0 ** (count - 1), LONGEST_PAUSE_S)
        with suppress(OSError):  # a terminal that is gone ends nothing
            self._write(
                f"the daemon {how}; it is started again in {pause_s:.0f} s (crash {count} within the hour; "
                f"{self._crashes_max} are too many)"
            )
        return pause_s

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopping and (left := until - time.monotonic()) > 0:
            self._receive(left)

    def _pass_on(self) -> None:
        """One signal more for the daemon: the first has it commit and leave, the second leave at once."""
        self._stopping = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def _end(self) -> None:
        """Have it print where it is, then kill it; return when it is gone."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGABRT)
        try:
            process.wait(ABORT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _exit_code(self) -> int:
        assert self._process is not None
        return self._process.wait()


def _in_words(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"crashed with exit code {code}"


def _die_with(parent: int) -> None:
    """In the child: on Linux the kernel ends it with the supervisor, however that ends, and it its worker."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(CRASHED)
