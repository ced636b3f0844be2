"""`keepstep logs`: the log as a person reads it, or as it is."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cli.errors import UserError
from cli.home.log_files import log_files
from cli.home.paths import Home
from cli.output.terminal import local
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
    """At least so bad."""
    attempt: int | None = None
    source: str | None = None

    def fits(self, line: LogLine) -> bool:
        """Whether it is."""
        bad_enough = LEVELS.index(line.level if line.level in LEVELS else "info") >= LEVELS.index(self.level)
        return (
            bad_enough
            and (self.attempt is None or line.attempt == self.attempt)
            and (self.source is None or line.source == self.source)
        )


def show_logs(home: Home, wanted: Filter, *, number: int, follow: bool, json: bool) -> None:
    """The last lines that fit, and with `follow` what is written from then on, until Ctrl-C. Raises UserError."""
    if wanted.level not in LEVELS:
        raise UserError(f"unknown level {wanted.level!r}", f"choose one of {', '.join(LEVELS)}")
    try:
        tail = Tail(home.logs)
        shown = last_lines(home.logs, wanted, number)
        for line in shown:
            _show(line, json=json)
        if not shown and not follow and number:
            print(_why_nothing(home.logs), file=sys.stderr)
        while follow and not reader_is_gone():
            for line in tail.news():
                if wanted.fits(line):
                    _show(line, json=json)
            time.sleep(FOLLOW_EVERY_S)
    except FileNotFoundError as error:
        raise UserError(f"{home.logs} is not there", "the daemon makes it: `keepstep run`") from error
    except KeyboardInterrupt:
        return


def _why_nothing(directory: Path) -> str:
    if not last_lines(directory, Filter(), 1):
        return "nothing was logged yet; the daemon does: `keepstep run`"
    return "nothing that was logged is like that; `keepstep logs` without --level, --attempt and --source shows all"


def last_lines(directory: Path, wanted: Filter, number: int) -> list[LogLine]:
    """The last `number` of those that fit, the oldest first; no more files are read than it takes. Raises OSError."""
    found: list[LogLine] = []
    for path in reversed(log_files(directory)):
        with open_to_read(path) as file:
            fitting = (line for data in file if (line := log_lines.decode(data)) is not None and wanted.fits(line))
            found = [*deque(fitting, maxlen=number - len(found)), *found]
        if len(found) >= number:
            break
    return found


class Tail:
    """What is written to the log from now on, across its files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen = {path: path.stat().st_size for path in log_files(directory)}

    def news(self) -> Iterator[LogLine]:
        """The whole lines since the last call. Raises OSError."""
        for path in log_files(self._directory):
            seen = self._seen.get(path, 0)
            with open_to_read(path) as file:
                file.seek(seen)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._seen[path] = seen + len(whole)
            yield from filter(None, map(log_lines.decode, whole.splitlines()))


def readable(line: LogLine) -> str:
    """A line for a person: when, how bad, who, what; the trace below it."""
    attempt = f" attempt {line.attempt}:" if line.attempt is not None and line.source != "daemon" else ""
    loud = f" {line.level.upper()}" if LEVELS.index(line.level) > LEVELS.index("info") else ""
    first, *more = printable_lines(line.message).split("\n")
    below = [*more, *(printable_lines(line.trace).rstrip().split("\n") if line.trace else ())]
    return "\n".join([f"{local(line.at)}  {line.source}{loud}{attempt} {first}", *(INDENT + text for text in below)])


def _show(line: LogLine, *, json: bool) -> None:
    print(log_lines.encode(line).decode().rstrip("\n") if json else readable(line), flush=True)
