"""The log: one place for what daemon, worker, libraries and hooks say, of a bounded size; and nothing hangs on it."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cli.diagnosis.logs import Filter, Tail, format_line, last_lines, show_logs
from cli.errors import UserError
from cli.home import log_files as cli_logs
from cli.home.log_files import FILES_MIN, LogFiles, OutputReader, log_files, logged
from cli.home.paths import Home
from events.settings import LogSettings
from gpu.runtime import log_lines
from gpu.runtime.log_lines import LogLine

ROOT = Path(__file__).parents[3]

DAY = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()


def record(message: str, at: float = DAY, level: int = logging.INFO, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("keepstep.daemon", level, "x.py", 1, "%s", (message,), None)
    made.created = at
    vars(made).update(extra)
    return made


def messages(directory: Path) -> list[str]:
    return [json.loads(line)["message"] for path in log_files(directory) for line in path.read_bytes().splitlines()]


def test_each_day_has_its_own_file(tmp_path: Path) -> None:
    """Named for it. A clock that is set back opens no older one again."""
    files = LogFiles(tmp_path, LogSettings())
    for days in (0, 0, 1, 0, 2):
        files.emit(record(f"day {days}", DAY + days * 86_400))
    files.close()
    assert [path.name for path in log_files(tmp_path)] == [f"2026-11-{day}.jsonl" for day in (22, 23, 24)]
    assert messages(tmp_path) == ["day 0", "day 0", "day 1", "day 0", "day 2"]


def test_all_files_together_stay_below_the_limit(tmp_path: Path) -> None:
    """The oldest go; other files in the directory are not the log's."""
    (tmp_path / "mine.txt").write_text("x" * 3_000_000, encoding="utf-8")
    files = LogFiles(tmp_path, LogSettings(max_mb=1))
    for number in range(1500):
        files.emit(record(f"{number} " + "x" * 2_000))
    files.close()
    found = log_files(tmp_path)
    assert 0.8e6 < sum(path.stat().st_size for path in found) <= 1e6
    assert len(found) <= FILES_MIN
    assert messages(tmp_path)[-1].startswith("1499 ")
    assert (tmp_path / "mine.txt").exists()


def test_files_of_too_many_days_ago_go(tmp_path: Path) -> None:
    """However small they are."""
    for name in ("2026-10-01.jsonl", "2026-11-20.jsonl", "2026-11-21.2.jsonl"):
        (tmp_path / name).write_text("{}\n", encoding="utf-8")
    files = LogFiles(tmp_path, LogSettings(days=2))
    files.emit(record("now"))
    files.close()
    assert [path.name for path in log_files(tmp_path)] == ["2026-11-20.jsonl", "2026-11-21.2.jsonl", "2026-11-22.jsonl"]


def test_the_tenth_part_of_a_day_follows_the_ninth(tmp_path: Path) -> None:
    """Parts are ordered by their number, not by their name."""
    for part in (10, 9, 2):
        (tmp_path / f"2026-11-22.{part}.jsonl").touch()
    (tmp_path / "2026-11-22.jsonl").touch()
    assert [path.name.split(".")[1] for path in log_files(tmp_path)] == ["jsonl", "2", "9", "10"]


def test_a_line_that_the_disk_does_not_take_is_counted_and_said_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody notices but the log."""
    files = LogFiles(tmp_path, LogSettings())
    files.emit(record("before"))
    write = os.write

    def full(_fd: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(cli_logs.os, "write", full)  # type: ignore[attr-defined]
    for _ in range(3):
        files.emit(record("lost"))
    assert files.lines_lost == 3
    monkeypatch.setattr(cli_logs.os, "write", lambda fd, data: write(fd, data[:10]))  # type: ignore[attr-defined]
    files.emit(record("half"))
    monkeypatch.setattr(cli_logs.os, "write", write)  # type: ignore[attr-defined]
    files.emit(record("after"))
    files.close()
    assert messages(tmp_path) == ["before", "4 lines before this could not be written", "after"]


def test_a_directory_that_is_not_there_ends_nothing(tmp_path: Path) -> None:
    """Nor one that may not be written to."""
    files = LogFiles(tmp_path / "gone", LogSettings())
    files.emit(record("lost"))
    assert files.lines_lost == 1
    (tmp_path / "gone").mkdir()
    files.emit(record("kept"))
    files.close()
    assert messages(tmp_path / "gone") == ["1 lines before this could not be written", "kept"]


def test_a_partial_line_is_ended_before_the_next(tmp_path: Path) -> None:
    """A power cut costs only the line that it cuts."""
    (tmp_path / "2026-11-22.jsonl").write_bytes(b'{"at":"20')
    files = LogFiles(tmp_path, LogSettings())
    files.emit(record("whole"))
    files.close()
    assert [line.message for line in last_lines(tmp_path, Filter(), 9)] == ["whole"]


def test_libraries_and_warnings_go_to_the_log_and_not_to_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And an error that ends the daemon has its trace there. Afterwards all is as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def work() -> None:
        logging.getLogger("some.library").warning("chatter")
        logging.getLogger("some.library").debug("too much of it")
        warnings.warn("an old habit", UserWarning, stacklevel=1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), logged(tmp_path, LogSettings()):
        work()
    lines = last_lines(tmp_path, Filter(), 9)
    assert lines[0].message == "chatter"
    assert "an old habit" in lines[1].message
    assert (lines[2].level, "ZeroDivisionError" in lines[2].trace) == ("critical", True)
    assert len(lines) == 3
    assert capfd.readouterr() == ("", "")
    assert (root.handlers, root.level) == (handlers, level)


def test_all_output_of_a_process_is_logged(tmp_path: Path) -> None:
    """Its log lines as such, its prints, what has no end of line, bytes that are no text, and a native crash."""
    script = """
import faulthandler, logging, os, sys
from gpu.runtime.log_lines import JsonLines
handler = logging.StreamHandler()
handler.setFormatter(JsonLines("worker"))
logging.basicConfig(handlers=[handler])
logging.getLogger("lib").error("structured")
print("printed", flush=True)
os.write(2, b"10%\\r20%\\r\\xff\\n")
faulthandler.enable()
faulthandler._sigsegv()
"""
    with logged(tmp_path, LogSettings()):
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).parents[3],
        )
        assert process.stdout is not None
        received = OutputReader(process.stdout, "worker")
        received.attempt = 7
        process.wait()
        received.join(5.0)
    lines = last_lines(tmp_path, Filter(source="worker", attempt=7), 99)
    assert (lines[0].message, lines[0].level, lines[0].logger) == ("structured", "error", "lib")
    assert [line.message for line in lines[1:5]] == ["printed", "10%", "20%", "\\xff"]
    assert any("Segmentation fault" in line.message for line in lines)


@contextmanager
def killed(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """A test that fails ends too: `Popen` waits for a process whose output somebody still reads."""
    try:
        yield
    finally:
        process.kill()


def test_the_answer_of_a_process_is_awaited(tmp_path: Path) -> None:
    """Until it has said all; one that says nothing costs the time that it was given."""
    says = "import sys\nprint('up', flush=True)\nfor line in sys.stdin: print(line * 3, flush=True)"
    with (
        subprocess.Popen(
            [sys.executable, "-c", says], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process,
        killed(process),
    ):
        assert process.stdout is not None
        assert process.stdin is not None
        received = OutputReader(process.stdout, "worker")
        assert received.ask(lambda: None, 10.0, 0.1)  # it comes up
        assert not received.ask(lambda: None, 0.2, 0.1)

        def ask() -> None:
            assert process.stdin is not None
            process.stdin.write(b"where\n")
            process.stdin.flush()

        assert received.ask(ask, 10.0, 0.2)
        assert received.last_output() == "up\nwhere\nwhere\nwhere"
        process.kill()
        received.join(5.0)


def test_a_failure_can_be_followed_from_its_crash_to_its_trace(
    home: Home, drop: Callable[..., Path], run: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """`keepstep failures` names the attempt, `keepstep logs --attempt` shows it."""
    from cli.diagnosis.failures import show_failures

    drop("a.jsonl", "ok ok die-once ok")
    run()
    show_failures(home, all_of_them=True, json=False)
    said = capsys.readouterr().out
    assert "killed: a.jsonl, attempt 1" in said
    assert "`keepstep logs --attempt 1`" in said
    show_logs(home, Filter(attempt=1), number=99, follow=False, json=False)
    shown = capsys.readouterr().out
    assert "ERROR attempt 1 failed (killed)" in shown
    assert "attempt 2" not in shown
    show_logs(home, Filter("error"), number=99, follow=False, json=True)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["kind"] == "attempt_failed"


def test_a_reported_failure_is_logged_with_its_trace(
    home: Home, drop: Callable[..., Path], run: Callable[..., list[str]]
) -> None:
    """As the worker sent it."""
    drop("a.jsonl", "broken")
    with pytest.raises(UserError):
        run()
    (line,) = last_lines(home.logs, Filter("error", source="worker"), 99)
    assert (line.message, line.attempt) == ("failed: cannot write: I/O error", 1)


def test_the_last_lines_are_found_across_files(tmp_path: Path) -> None:
    """No more than asked for, the oldest first; `-f` shows what comes, in new files too."""
    files = LogFiles(tmp_path, LogSettings())
    for number in range(5):
        files.emit(record(f"line {number}", DAY + number * 86_400))
    assert [line.message for line in last_lines(tmp_path, Filter(), 2)] == ["line 3", "line 4"]
    assert last_lines(tmp_path, Filter(), 0) == []
    tail = Tail(tmp_path)
    assert list(tail.new_lines()) == []
    files.emit(record("more", DAY + 4 * 86_400))
    files.emit(record("tomorrow", DAY + 5 * 86_400))
    files.close()
    assert [line.message for line in tail.new_lines()] == ["more", "tomorrow"]
    assert list(tail.new_lines()) == []


def test_the_readable_form_escapes_what_a_terminal_would_obey() -> None:
    """Lines below the first are set in."""
    line = LogLine(
        at="2026-11-22T03:00:00Z", level="error", source="worker", message="\x1b[2J\nb", attempt=4, trace="T\n"
    )
    first, *more = format_line(line).splitlines()
    assert first.endswith("worker ERROR attempt 4: \\x1b[2J")
    assert [text.strip() for text in more] == ["b", "T"]


def test_a_home_without_logs_is_said(home: Home) -> None:
    """In a sentence."""
    home.logs.rmdir() if home.logs.exists() else None
    with pytest.raises(UserError, match="does not exist"):
        show_logs(home, Filter(), number=1, follow=False, json=False)


def test_where_nothing_is_to_be_shown_it_says_why(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, so that a script gets nothing."""
    show_logs(home, Filter(), number=9, follow=False, json=False)
    assert capsys.readouterr() == ("", "the log is empty; the daemon writes it: `keepstep run`\n")
    line = LogLine(at="2026-11-22T03:00:00Z", level="info", source="daemon", message="m")
    (home.logs / "2026-11-22.jsonl").write_bytes(log_lines.encode(line))
    show_logs(home, Filter(source="nobody"), number=9, follow=False, json=True)
    assert capsys.readouterr().err.startswith("no log line matches")
    show_logs(home, Filter(source="daemon"), number=9, follow=False, json=False)
    assert capsys.readouterr().err == ""
