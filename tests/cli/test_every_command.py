"""Every command of the command line, in surroundings that no command expects.

The commands are those that the app has, so a new one is tested here too. Each runs in a fork of this process, on a copy
of one home in which files were trained, rejected and queued whose names fit into no narrow encoding.
"""

from __future__ import annotations

import importlib.abc
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.main import get_command

from cli.app import app
from cli.commands.init import create_home
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.inbox.accept import accept_copy
from cli.main import main
from core import commands
from tests.harness.daemon import run_until_idle

ROOT = Path(__file__).parents[2]

NAME = "日本 …"

ARGUMENTS: dict[str, list[str]] = {
    "init": ["{new}", "--model", "hub/name@" + "1" * 40],
    "run": ["--until-idle"],
    "add": ["{outside}", "{outside}"],
    "monitor": ["--host", "0.0.0.0"],
    "serve": ["--host", "0.0.0.0"],
    "skip": [f"{NAME}-waits.jsonl"],
    "retry": [f"{NAME}-waits.jsonl"],
    "consolidate": ["-d", NAME],
    "lineage": [],
    "checkout": ["--step", "1", "--to", "{outside}"],
    "demo": ["{outside}"],
    "ask": [NAME, "--model", NAME],
    "chat": ["--model", NAME],
    "compare": [NAME, "--model", NAME, "--model", "base"],
    "explain": [f"{NAME}-trained.jsonl"],
    "logs": ["-n", "1000"],
    "queue move": [f"{NAME}-waits.jsonl", "--first"],
    "queue hold": [f"{NAME}-waits.jsonl"],
    "queue release": [f"{NAME}-waits.jsonl"],
    "queue remove": [f"{NAME}-waits.jsonl"],
    "checkpoints export": ["--to", "{outside}"],
    "checkpoints prune": ["--keep", "1"],
    "data check": [f"/nowhere/{NAME}"],
    "estimate": [f"/nowhere/{NAME}"],
    "data report": [f"{NAME}-trained.jsonl"],
    "versions show": [NAME],
    "versions diff": [NAME, NAME],
    "versions restore": [NAME],
    "versions delete": [NAME],
    "versions evaluate": [NAME],
    "versions promote": [NAME],
    "versions discard": [NAME],
    "versions export": [NAME, "--to", "{outside}"],
    "versions push": [NAME, "someone/model", "--yes"],
    "backup restore": [NAME],
    "backup cleanup": ["--retention-days", "1"],
    "home move": ["{new}"],
    "journal show": ["--kind", "file_enqueued"],
    "report rebuild": [],
    "config get": ["inbox.settle_s"],
    "config set": ["inbox.settle_s", "1"],
    "config unset": ["inbox.settle_s"],
}
"""What each command is given next to the home. A command that would start another process is refused first."""

WITHOUT_HOME = {"init", "demo"}

HEAVY = ("torch", "transformers", "peft")


def every_command() -> Iterator[str]:
    """The words of each command: "status", "queue move", …"""

    def below(command: object, words: tuple[str, ...]) -> Iterator[str]:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield " ".join(words)
            return
        for name, each in inner.items():
            yield from below(each, (*words, name))

    return below(get_command(app), ())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A paused home with a past."""
    directory = tmp_path_factory.mktemp("every")
    home = create_home(directory / "home", model="nowhere")
    for name, text in (("trained", "ok\nok\n"), ("rejected", "reject\n"), ("gone", "ok\n")):
        path = home.inbox / f"{NAME}-{name}.jsonl"
        path.write_text(text, encoding="utf-8")
        os.utime(path, (1.0, 1.0))
    run_until_idle(home)
    waits = directory / f"{NAME}-waits.jsonl"
    waits.write_text("ok waits\n", encoding="utf-8")
    (home.inbox / f"{NAME}-link.jsonl").symlink_to(waits)
    with closing(EventStore.open(home)) as store:
        accept_copy(store, waits, "normal")
        store.execute(commands.Pause())
    return home.root


Ran = tuple[int, str]


@pytest.fixture
def ran(prepared: Path, tmp_path: Path) -> Callable[..., Ran]:
    """Runs a command on its own copy of the home: its exit code, and what it said on standard error."""
    count = 0

    def run(
        words: str, surround: Callable[[], None], interrupt_after_s: float | None = None, options: tuple[str, ...] = ()
    ) -> Ran:
        nonlocal count
        count += 1
        root = tmp_path / f"{count}" / "home"
        shutil.copytree(prepared, root, symlinks=True)
        outside = tmp_path / f"outside-{count}.jsonl"
        outside.write_text("ok outside\n", encoding="utf-8")
        places = {"new": str(tmp_path / f"new-{count}"), "outside": str(outside)}
        arguments = [*words.split(), *(each.format(**places) for each in ARGUMENTS.get(words, []))]
        arguments += options
        arguments += [] if words in WITHOUT_HOME else ["--home", str(root)]
        errors = tmp_path / f"errors-{count}"
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # until the child is what it is to be
        pid = os.fork()
        if pid == 0:
            try:
                _in_child(arguments, tmp_path, errors, surround)
            finally:  # a signal between the end of the command and that of its process
                errors.write_text("Cancelled; ", encoding="utf-8")
                os._exit(130)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        if interrupt_after_s is not None:
            time.sleep(interrupt_after_s)
            os.kill(pid, signal.SIGINT)
        _, status = os.waitpid(pid, 0)
        with closing(EventStore.open(Home(root if root.exists() else Path(places["new"])))):
            pass  # whatever became of the command, the journal is whole
        return os.waitstatus_to_exitcode(status), errors.read_text(encoding="utf-8", errors="backslashreplace")

    return run


def _in_child(arguments: list[str], tmp_path: Path, errors: Path, surround: Callable[[], None]) -> None:
    """A process as a shell starts it; never returns."""
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for name in ("HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
            os.environ[name] = str(tmp_path)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(tmp_path / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.stdin = io.TextIOWrapper(io.FileIO(0))
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), write_through=True)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), write_through=True)
        surround()
        sys.argv = ["keepstep", *arguments]
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        except KeyboardInterrupt:  # it came before there was a command
            os.write(2, b"Cancelled; ")
            os._exit(130)
        main()
        code = 0
    except SystemExit as ended:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException as error:  # noqa: BLE001  # the parent is told
        os.write(2, f"Traceback: {error!r}".encode())
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()
        os._exit(code)


class NoTorch(importlib.abc.MetaPathFinder):
    """Reports an import of torch or of a library over it: seconds and hundreds of MB, for the worker alone."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        """Report the import, and leave it to the other finders."""
        if fullname in HEAVY:
            os.write(2, f"Traceback: imported {fullname}".encode())


def as_usual() -> None:
    """A shell, and no torch."""
    for name in [name for name in sys.modules if name.partition(".")[0] in HEAVY]:
        del sys.modules[name]
    sys.meta_path.insert(0, NoTorch())


def narrow() -> None:
    """PYTHONIOENCODING=ascii."""
    sys.stdout.reconfigure(encoding="ascii", errors="strict")
    sys.stderr.reconfigure(encoding="ascii", errors="strict")


def closed() -> None:
    """`<&- >&-`, as Python finds them."""
    os.close(0)
    os.close(1)
    sys.stdin = sys.stdout = None


def unread() -> None:
    """`| head -0`."""
    reading, writing = os.pipe()
    os.dup2(writing, 1)
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("words", [*every_command()])
def test_a_command_ends_in_the_same_way_whatever_its_output_is(words: str, ran: Callable[..., Ran]) -> None:
    """A narrow encoding, closed streams, a reader that left: no traceback, and the exit code that it has anyway."""
    usual, errors = ran(words, as_usual)
    assert usual in (0, 1, 2), errors
    assert "Traceback" not in errors, errors
    for surround in (narrow, closed, unread):
        code, errors = ran(words, surround)
        assert "Traceback" not in errors, (surround.__name__, errors)
        assert code == usual, (surround.__name__, errors)


@pytest.mark.parametrize("words", [*every_command()])
def test_a_command_that_is_interrupted_says_what_it_left(words: str, ran: Callable[..., Ran]) -> None:
    """Ctrl-C, early and later: exit code 130 unless it was done before; never a traceback."""
    for after_s in (0.02, 0.1):
        code, errors = ran(words, as_usual, after_s)
        assert "Traceback" not in errors, errors
        assert code in (0, 1, 2, 130), errors
        assert (code == 130) == ("Cancelled; " in errors), errors


WITHOUT_JSON = {
    **dict.fromkeys(("init", "demo", "run", "service install", "service uninstall"), "prints what it does as it goes"),
    **dict.fromkeys(
        ("pause", "resume", "stop", "skip", "retry", "consolidate", "samples now"), "`status --json` has it"
    ),
    "self-correction resume": "`self-correction --json` has the result",
    **dict.fromkeys(("queue move", "queue hold", "queue release", "queue remove"), "`queue --json` has the result"),
    "report rebuild": "`report --json` has the result",
    **dict.fromkeys(("chat", "monitor", "serve"), "talks to a person; scripts have `ask --json` and the APIs"),
    **dict.fromkeys(("versions delete", "journal repair"), "asks for a confirmation; `versions --json` has the result"),
    **dict.fromkeys(
        ("config get", "config set", "config unset", "config edit", "config check"),
        "`config show --json` has the values",
    ),
}
"""Commands without --json, and why."""


@pytest.mark.parametrize("words", [*every_command()])
def test_a_command_that_reports_prints_json(words: str, ran: Callable[..., Ran], tmp_path: Path) -> None:
    """Standard output is JSON: one value, or one a line; times are ISO 8601."""
    if words in WITHOUT_JSON:
        return
    code, errors = ran(words, as_usual, options=("--json",))
    assert code in (0, 1), errors
    shown = (tmp_path / "output").read_text(encoding="utf-8")
    if code == 0 or shown:
        values = _json_values(shown)
        assert not [found for value in values for found in _unix_times(value)]


def _json_values(text: str) -> list[object]:
    try:
        return [json.loads(text)]
    except ValueError:
        return [json.loads(line) for line in text.splitlines()]


def _unix_times(value: object, key: str = "") -> Iterator[str]:
    """The keys under which a number is a Unix time of our days."""
    if isinstance(value, dict):
        for name, each in value.items():
            if name != "event":  # a record of the journal is printed as it is stored
                yield from _unix_times(each, name)
    elif isinstance(value, list):
        for each in value:
            yield from _unix_times(each, key)
    elif isinstance(value, int | float) and 1.5e9 < value < 3e9 and "bytes" not in key:
        yield key


def test_a_locale_that_is_not_utf8_ends_nothing(prepared: Path, tmp_path: Path) -> None:
    """With ISO-8859-1 even the names of files are decoded otherwise: a daemon, and what is asked of it."""
    if shutil.which("localedef") is None:
        pytest.skip("no localedef to make a locale with")
    made = subprocess.run(
        ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", tmp_path / "de_DE.ISO-8859-1"],
        capture_output=True,
        check=False,
    )
    if not (tmp_path / "de_DE.ISO-8859-1" / "LC_CTYPE").exists():
        pytest.skip(f"the locale cannot be made: {made.stderr.decode(errors='replace')}")
    home = Home(tmp_path / "home")
    shutil.copytree(prepared, home.root, symlinks=True)
    for name, text in (("new", "ok new\n"), ("bad", "reject\n")):
        (home.inbox / f"{NAME}-{name}.jsonl").write_text(text, encoding="utf-8")
        os.utime(home.inbox / f"{NAME}-{name}.jsonl", (1.0, 1.0))
    with closing(EventStore.open(home)) as store:
        store.execute(commands.Resume())
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LC_")}
    environment |= {"LOCPATH": str(tmp_path), "LANG": "de_DE.ISO-8859-1", "PYTHONPATH": str(ROOT), "PYTHONUTF8": "0"}

    def keepstep(*command: str) -> str:
        done = subprocess.run([sys.executable, "-P", "-m", *command], capture_output=True, env=environment, check=False)
        assert b"Traceback" not in done.stderr, done.stderr.decode(errors="backslashreplace")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.decode("latin-1")

    said = keepstep("tests.harness.daemon", str(home.root), "tests.harness.worker", "--until-idle")
    assert "\\u65e5\\u672c \\u2026-new.jsonl: trained" in said
    for command in ("status", "queue", "logs", "lineage"):
        keepstep("cli", command, "--home", str(home.root))
    assert "\\u65e5\\u672c" in keepstep("cli", "explain", f"{NAME}-new.jsonl", "--home", str(home.root))
