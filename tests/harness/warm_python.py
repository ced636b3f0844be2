"""A Python that has imported torch already: modules of `gpu` start in milliseconds instead of seconds.

    python -P -m tests.harness.warm_python SOCKET

The server imports what the worker needs, once, and forks for each request. `WarmPython.executable` is a script that
takes the place of `sys.executable`: it passes `-P -m gpu.…`, its environment and its standard streams to the server,
forwards signals, and ends as the forked process ends. It runs anything else in the real Python, and so what blocks the
import of torch: `gpu.data.processes`, because transformers remembers that torch was there. A test whose claim is
about the process itself (its death, its memory, its pid) does not use it.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

SCRIPT = """#!{python} -IS
import array, json, os, signal, socket, sys
words = sys.argv[1:]
if words[:2] != ["-P", "-m"] or not words[2].startswith("gpu.") or words[2].startswith("gpu.data.processes."):
    os.execv({python!r}, [{python!r}, *words])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
order = json.dumps([words[2:], dict(os.environ), os.getcwd()]).encode()
streams = array.array("i", [0, 1, 2])
server.sendmsg([len(order).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
server.sendall(order)
pid = int.from_bytes(server.recv(8), "big")
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    signal.signal(number, lambda number, _: os.kill(pid, number))
status = os.waitstatus_to_exitcode(int.from_bytes(server.recv(8), "big"))
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
os._exit(status)
"""
PATIENCE_S = 120.0


class WarmPython:
    """The server, and the script that speaks to it. `close` ends both."""

    def __init__(self, directory: Path) -> None:
        address = directory / "warm.sock"
        self.executable = directory / "python"
        self.executable.write_text(SCRIPT.format(python=sys.executable, address=str(address)), encoding="utf-8")
        self.executable.chmod(0o755)
        self._server = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.harness.warm_python", str(address)], stdin=subprocess.PIPE
        )
        deadline = time.monotonic() + PATIENCE_S
        while not address.exists():
            assert self._server.poll() is None, "the warm Python ended"
            assert time.monotonic() < deadline, "the warm Python does not come up"
            time.sleep(0.05)

    def close(self) -> None:
        self._server.kill()
        self._server.wait()


def serve(address: str) -> None:
    """Fork for each connection; kill the forked process when its connection closes."""
    from gpu.worker import ENVIRONMENT

    os.environ.update(ENVIRONMENT)
    import gpu.session  # noqa: F401 - the import is the purpose

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.new")
    listener.listen(64)
    Path(f"{address}.new").rename(address)
    ended, wakes = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: dict[int, socket.socket] = {}
    selector = selectors.DefaultSelector()
    for file in (listener, ended, 0):
        selector.register(file, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                pid = _start(connection, [listener, *children.values()])
                children[pid] = connection
                selector.register(connection, selectors.EVENT_READ, pid)
            elif key.fileobj == ended:
                os.read(ended, 4096)
                _report_ends(children, selector)
            elif key.fileobj == 0:
                sys.exit(0)  # the tests are over
            else:  # the script was killed
                selector.unregister(key.fileobj)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(key.data, signal.SIGKILL)


def _report_ends(children: dict[int, socket.socket], selector: selectors.BaseSelector) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        connection = children.pop(pid)
        with contextlib.suppress(KeyError):
            selector.unregister(connection)
        with contextlib.suppress(OSError):
            connection.sendall(status.to_bytes(8, "big"))
        connection.close()


def _start(connection: socket.socket, others: list[socket.socket]) -> int:
    head, streams, _, _ = socket.recv_fds(connection, 8, 3)
    order = b""
    while len(order) < int.from_bytes(head, "big"):
        order += connection.recv(1 << 20)
    pid = os.fork()
    if pid == 0:
        for each in (connection, *others):
            each.close()
        words, environment, directory = json.loads(order)
        _run(words, environment, directory, streams)
    for stream in streams:
        os.close(stream)
    connection.sendall(pid.to_bytes(8, "big"))
    return pid


def _run(words: list[str], environment: dict[str, str], directory: str, streams: list[int]) -> NoReturn:
    """Become the module, as `python -P -m` would."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(directory)
        sys.argv = words
        try:
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            if isinstance(ended.code, str):
                print(ended.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - as the interpreter does with what nobody caught
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
