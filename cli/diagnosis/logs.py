"""`keepstep logs`: print the log as text or JSON."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cli.errors import UserError
from cli.home.log_files import log_files
from cli.home.paths import Home
from cli.output.terminal import say
from cli.output.times import local
from cli.text import printable_lines
from gpu.runtime import log_lines
from gpu.runtime.log_lines import LEVELS, LogLine
from gpu.runtime.streams import reader_is_gone
from journal.durable import open_to_read

FOLLOW_EVERY_S = 0.2

INDENT = " " * 10


class Filter(NamedTuple):
    """Which lines are shown."""

    level: str = "debug"
    """The lowest level that is shown."""
    attempt: int | None = None
    source: str | None = None

    def matches(self, line: LogLine) -> bool:
        """True if the filter lets this line through."""
        severe_enough = LEVELS.index(line.level if line.level in LEVELS else "info") >= LEVELS.index(self.level)
        return (
            severe_enough
            and (self.attempt is None or line.attempt == self.attempt)
            and (self.source is None or line.source == self.source)
        )


def show_logs(home: Home, wanted: Filter, *, number: int, follow: bool, json: bool) -> None:
    """Print the last matching lines; with `follow` also new ones, until Ctrl-C. Raises UserError."""
    try:
        tail = Tail(home.logs)
        shown = last_lines(home.logs, wanted, number)
        for line in shown:
            _show(line, json=json)
        if not shown and not follow and number:
            say(_empty_message(home.logs), error=True)
        while follow and not reader_is_gone():
            for line in tail.new_lines():
                if wanted.matches(line):
                    _show(line, json=json)
            time.sleep(FOLLOW_EVERY_S)
    except FileNotFoundError as error:
        raise UserError(f"{home.logs} does not exist", "the daemon creates it: `keepstep run`") from error
    except KeyboardInterrupt:
        return


def _empty_message(directory: Path) -> str:
    if not last_lines(directory, Filter(), 1):
        return "the log is empty; the daemon writes it: `keepstep run`"
    return "no log line matches; to see all: omit --level, --attempt and --source"


def last_lines(directory: Path, wanted: Filter, number: int) -> list[LogLine]:
    """The last `number` matching lines, the oldest first. Reads no more files than needed. Raises OSError."""
    found: list[LogLine] = []
    for path in reversed(log_files(directory)):
        with open_to_read(path) as file:
            matching = (line for data in file if (line := log_lines.decode(data)) is not None and wanted.matches(line))
            found = [*deque(matching, maxlen=number - len(found)), *found]
        if len(found) >= number:
            break
    return found


class Tail:
    """Reads what is appended to the log files from now on."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen = {path: path.stat().st_size for path in log_files(directory)}

    def new_lines(self) -> Iterator[LogLine]:
        """The complete lines since the last call. Raises OSError."""
        for path in log_files(self._directory):
            seen = self._seen.get(path, 0)
            with open_to_read(path) as file:
                file.seek(seen)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._seen[path] = seen + len(whole)
            yield from filter(None, map(log_lines.decode, whole.splitlines()))


def format_line(line: LogLine) -> str:
    """A log line as text: time, source, level, message; then its traceback."""
    attempt = f" attempt {line.attempt}:" if line.attempt is not None and line.source != "daemon" else ""
    loud = f" {line.level.upper()}" if LEVELS.index(line.level) > LEVELS.index("info") else ""
    first, *more = printable_lines(line.message).split("\n")
    below = [*more, *(printable_lines(line.trace).rstrip().split("\n") if line.trace else ())]
    return "\n".join([f"{local(line.at)}  {line.source}{loud}{attempt} {first}", *(INDENT + text for text in below)])


def _show(line: LogLine, *, json: bool) -> None:
    if json:
        print(log_lines.encode(line).decode().rstrip("\n"), flush=True)
    else:
        say(format_line(line), indent=len(INDENT), flush=True)
