"""A line of the log, as the daemon and its worker write it: one JSON object, for `jq` and for `keepstep logs`.

The worker writes such lines to its standard error, where native code, faulthandler and libraries write too; the daemon
reads all of it and keeps it. No line carries what looks like a secret, however it got into a message.
"""

from __future__ import annotations

import logging
import os
import re
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec
from msgspec import Struct

LEVELS = ("debug", "info", "warning", "error", "critical")

LONGEST_TEXT = 16_384
"""Characters of one message or one trace: more than any trace that a person would read, and a library that prints a
tensor cannot fill the log with it."""

SHORTEST_SECRET = 8
"""Characters. A shorter value of the environment would be found in words that mean something else."""

HIDDEN = "[hidden]"

_SECRET_NAME = re.compile(r"token|secret|passw|credential|api_?key|private_?key", re.IGNORECASE)

_SECRETS = (
    re.compile(r"(?<=://)[^/\s@]+(?=@)"),  # user:password of a URL
    re.compile(r"\b(?:hf|gh[opsu]|sk|xox[abp])[_-][\w-]{16,}"),  # the tokens of hubs, by how they begin
    re.compile(r"(?i)(?<=bearer )[\w.~+/-]{8,}=*"),
    re.compile(  # password = "…", api_key: …
        r"""(?i)(?<![\w-])[\w-]*(?:token|secret|password|passwd|api[_-]?key)["']?\s*[=:]\s*["']?"""
        r"""(?P<value>[^\s"',;&]{8,})"""
    ),
)


class LogLine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What happened, when, how bad it is, and who says so."""

    at: str
    """UTC, ISO 8601, with microseconds, as the journal has it."""
    level: str
    source: str
    """daemon, worker or hook."""
    message: str
    logger: str = ""
    attempt: int | None = None
    kind: str | None = None
    """Of the event that is told of, if it is one."""
    trace: str = ""


_encoder, _decoder = msgspec.json.Encoder(), msgspec.json.Decoder(LogLine)


def encode(line: LogLine) -> bytes:
    """The line with its end. Control characters are escaped, whatever they would do to a terminal."""
    text = _encoder.encode(line).decode("utf-8", "replace")
    escaped = re.sub(
        r"[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", lambda found: f"\\u{ord(found[0]):04x}", text
    )
    return escaped.encode() + b"\n"


def decode(data: bytes) -> LogLine | None:
    """The line that `data` is; None if it is something else."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeError):
        return None


def secret_values(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The values whose names say that they are secret, the longest first: one may contain another. (A path to one is no
    secret.)"""
    values = {
        value
        for name, value in environment.items()
        if len(value) >= SHORTEST_SECRET and _SECRET_NAME.search(name) and "/" not in value[:1]
    }
    return tuple(sorted(values, key=len, reverse=True))


def without_secrets(text: str, values: Sequence[str] = ()) -> str:
    """`text` with what looks like a secret hidden: one of `values`, or by its form, or by the name before it."""
    for value in values:
        text = text.replace(value, HIDDEN)
    for secret in _SECRETS:
        text = secret.sub(_hide, text)
    return text


def _hide(found: re.Match[str]) -> str:
    value = found.groupdict().get("value")
    return HIDDEN if value is None else found[0].removesuffix(value) + HIDDEN


def shortened(text: str) -> str:
    """At most `LONGEST_TEXT` characters of it: its end, for that is where a trace has its point."""
    left = len(text) - LONGEST_TEXT
    return text if left <= 0 else f"… ({left} characters before this)\n{text[left:]}"


def timestamp(now: float) -> str:
    """A Unix time as a log line has it."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class JsonLines(logging.Formatter):
    """Records as such lines. What a record carries as `attempt`, `kind`, `source` and `trace` goes into them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self._source = source
        self._secrets = secret_values(os.environ)

    def line(self, record: logging.LogRecord) -> LogLine:
        """The record as a line."""
        said = vars(record)
        trace = str(said.get("trace") or "")
        if record.exc_info and record.exc_info[0] is not None:
            trace = "".join(traceback.format_exception(*record.exc_info))
        attempt, kind = said.get("attempt"), said.get("kind")
        return LogLine(
            at=timestamp(record.created),
            level=record.levelname.lower() if record.levelname.lower() in LEVELS else "info",
            source=str(said.get("source") or self._source),
            message=self._fit(record.getMessage().rstrip(" \r\n")),
            logger=record.name,
            attempt=attempt if isinstance(attempt, int) else None,
            kind=kind if isinstance(kind, str) else None,
            trace=self._fit(trace),
        )

    def format(self, record: logging.LogRecord) -> str:
        return encode(self.line(record)).decode().rstrip("\n")

    def _fit(self, text: str) -> str:
        return shortened(without_secrets(text.encode("utf-8", "replace").decode("utf-8"), self._secrets))
