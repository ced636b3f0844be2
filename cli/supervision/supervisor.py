"""`keepstep run --supervise`: a small parent process that restarts the daemon when it crashes or hangs.

It replaces systemd where there is none. The daemon sends heartbeats by the same protocol (`sd_notify.py`), to a socket
of the supervisor. How the daemon ends decides what follows:

    exit code 0, 130        it was asked to stop: the supervisor ends too
    exit code 1, 2, 3, 4    a person is needed, and a restart would change nothing: the supervisor ends too
    any other end           a crash: the supervisor restarts the daemon after a pause that grows
    no heartbeat            a hang: SIGABRT makes it print its stacks, then it is killed and restarted as after a crash

The supervisor holds no lock and touches no file of the home: the lock of the daemon decides which daemon may run.
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

from cli.errors import CRASHED, DAMAGED, INTERRUPTED, REFUSED, STORAGE_FAILED, UserError
from cli.home.paths import Home
from cli.home.subprocesses import command
from cli.signals import handle_signals
from cli.supervision.sd_notify import WATCHDOG_TIMEOUT_S, parse_datagram
from gpu.runtime.parent import PR_SET_PDEATHSIG

USAGE = 2
FINAL = (0, INTERRUPTED, REFUSED, USAGE, DAMAGED, STORAGE_FAILED)
"""Exit codes after which the daemon is not restarted: it was asked to stop, or a person is needed."""

START_S = 120.0
"""Time from the start to the first message: Python and its imports, from a cold disk on a busy machine."""

ABORT_S = 3.0
"""Time for a hung daemon to print its stacks. One that is stopped prints nothing and is killed then."""

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 10.0
"""The pause doubles with each crash. With WATCHDOG_TIMEOUT_S and ABORT_S it stays under a minute."""

CRASHES_MAX = 20
WITHIN_S = 3600.0
"""After this many crashes within this time a person is needed."""


def supervise(home: Home, *, until_idle: bool, write: Callable[[str], None]) -> int:
    """Run the daemon of `home` as a child process until it ends; return its exit code.

    Raises UserError after CRASHES_MAX crashes.
    """
    arguments = ["run", "--home", str(home.root), *(["--until-idle"] if until_idle else [])]
    return Supervisor(command("cli", *arguments), write=write).run()


class Supervisor:
    """Runs one daemon after the other. `run` returns the exit code of the last."""

    def __init__(
        self,
        daemon: Sequence[str],
        *,
        write: Callable[[str], None],
        timeout_s: float = WATCHDOG_TIMEOUT_S,
        first_pause_s: float = FIRST_PAUSE_S,
        crashes_max: int = CRASHES_MAX,
    ) -> None:
        self._command = daemon
        self._write = write
        self._timeout_s, self._pause_s, self._crashes_max = timeout_s, first_pause_s, crashes_max
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._crashes: deque[float] = deque()

    def run(self) -> int:
        """Run until the daemon ends for good. Raises UserError after `crashes_max` crashes; OSError."""
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
            stack.enter_context(handle_signals(wake_out.fileno(), self._forward_signal))
            before = signal.signal(
                signal.SIGCHLD, lambda *_: None
            )  # the wakeup fd then ends the wait when the daemon ends
            stack.callback(signal.signal, signal.SIGCHLD, before)
            stack.callback(self._end)
            return self._run()

    def _run(self) -> int:
        while True:
            hang = self._run_once()
            code = self._exit_code()
            if self._stopping or (hang is None and code in FINAL):
                return code if code >= 0 else CRASHED
            pause_s = self._count_crash(hang or _in_words(code))
            self._sleep(pause_s)
            if self._stopping:  # a signal came during the pause
                return 0

    def _run_once(self) -> str | None:
        """Run the daemon until it ends. Returns None if it ended by itself, else a description of the hang."""
        supervisor = os.getpid()
        self._receive(0.0)  # drop the last messages of the daemon before
        self._process = process = subprocess.Popen(
            self._command,
            env={**os.environ, "NOTIFY_SOCKET": self._address, "WATCHDOG_USEC": str(round(self._timeout_s * 1e6))},
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # the supervisor gets Ctrl-C and forwards it once
            preexec_fn=lambda: _die_with(supervisor),  # safe: no other thread could hold a lock at the fork
        )
        if self._stopping:  # the signal came while it was started
            process.terminate()
        limit_s, received_at = START_S, time.monotonic()
        while process.poll() is None:
            for message in self._receive(1.0):
                received_at = time.monotonic()
                wanted = message.get("WATCHDOG_USEC", "")
                limit_s = int(wanted) / 1e6 if wanted.isdecimal() else self._timeout_s
            silence_s = time.monotonic() - received_at
            if silence_s > limit_s and process.poll() is None:
                self._end()
                return f"sent no heartbeat for {silence_s:.0f} s: it hung"
        return None

    def _receive(self, seconds: float) -> list[dict[str, str]]:
        """Wait at most `seconds`; return all messages that have arrived."""
        self._selector.select(seconds)
        messages = []
        with suppress(BlockingIOError):
            while True:
                messages.append(parse_datagram(self._socket.recv(65536)))
        with suppress(BlockingIOError):
            while self._wake.recv(4096):
                pass
        return messages

    def _count_crash(self, how: str) -> float:
        """Report a crash; return the pause before the restart, seconds. Raises UserError after too many crashes."""
        now = time.monotonic()
        self._crashes.append(now)
        while now - self._crashes[0] > WITHIN_S:
            self._crashes.popleft()
        count = len(self._crashes)
        if count >= self._crashes_max:
            raise UserError(
                f"the daemon crashed {count} times within an hour; the last time it {how}",
                "`keepstep doctor` looks for what is wrong; nothing that was committed is lost",
                CRASHED,
            )
        pause_s = min(self._pause_s * 2.0 ** (count - 1), LONGEST_PAUSE_S)
        with suppress(OSError):  # the terminal may be closed
            self._write(
                f"the daemon {how}; it is restarted in {pause_s:.0f} s (crash {count} within the hour; at "
                f"{self._crashes_max} the supervisor stops)"
            )
        return pause_s

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopping and (left := until - time.monotonic()) > 0:
            self._receive(left)

    def _forward_signal(self, _name: str) -> None:
        """Forward a signal: at the first the daemon commits and ends, at the second it ends at once."""
        self._stopping = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def _end(self) -> None:
        """Have the daemon print its stacks, then kill it; return when it is gone."""
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
    """Runs in the child. On Linux the kernel then kills the daemon when the supervisor ends, and the worker with it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(CRASHED)
