"""The lines of the log: one JSON object each, for `jq` and for `keepstep logs`.

The worker writes such lines to its standard error. Native code, faulthandler and libraries write there too; the daemon
reads and stores all of it. Texts that look like secrets are hidden in every line.
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
"""Characters of one message or trace: more than a person reads, and a limit for a library that prints a tensor."""

SHORTEST_SECRET = 8
"""Characters. A shorter value would also match ordinary words."""

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
    """One line of the log."""

    at: str
    """UTC, ISO 8601, with microseconds, as the journal has it."""
    level: str
    source: str
    """daemon, worker or hook."""
    message: str
    logger: str = ""
    attempt: int | None = None
    kind: str | None = None
    """The kind of the event that the line reports, if any."""
    trace: str = ""


_encoder, _decoder = msgspec.json.Encoder(), msgspec.json.Decoder(LogLine)


def encode(line: LogLine) -> bytes:
    """Return the line with its line feed. Control characters are escaped: they could affect a terminal."""
    text = _encoder.encode(line).decode("utf-8", "replace")
    escaped = re.sub(
        r"[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", lambda found: f"\\u{ord(found[0]):04x}", text
    )
    return escaped.encode() + b"\n"


def decode(data: bytes) -> LogLine | None:
    """Return the line in `data`; None if it is something else."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeError):
        return None


def secret_values(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of variables whose names suggest a secret, the longest first: one may contain another.

    A path to a secret is not one.
    """
    values = {
        value
        for name, value in environment.items()
        if len(value) >= SHORTEST_SECRET and _SECRET_NAME.search(name) and "/" not in value[:1]
    }
    return tuple(sorted(values, key=len, reverse=True))


def without_secrets(text: str, values: Sequence[str] = ()) -> str:
    """Return `text` with secrets hidden: one of `values`, or recognized by its form or by the name before it."""
    for value in values:
        text = text.replace(value, HIDDEN)
    for secret in _SECRETS:
        text = secret.sub(_hide, text)
    return text


def _hide(found: re.Match[str]) -> str:
    value = found.groupdict().get("value")
    return HIDDEN if value is None else found[0].removesuffix(value) + HIDDEN


def shortened(text: str) -> str:
    """Return the last `LONGEST_TEXT` characters: the end of a trace says what went wrong."""
    left = len(text) - LONGEST_TEXT
    return text if left <= 0 else f"… ({left} characters before this)\n{text[left:]}"


def timestamp(now: float) -> str:
    """Return a Unix time in the format of a log line."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class JsonLines(logging.Formatter):
    """Formats records as log lines, with the attributes `attempt`, `kind`, `source` and `trace` of a record."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self._source = source
        self._secrets = secret_values(os.environ)

    def line(self, record: logging.LogRecord) -> LogLine:
        """Return the record as a line."""
        fields = vars(record)
        trace = str(fields.get("trace") or "")
        if record.exc_info and record.exc_info[0] is not None:
            trace = "".join(traceback.format_exception(*record.exc_info))
        attempt, kind = fields.get("attempt"), fields.get("kind")
        return LogLine(
            at=timestamp(record.created),
            level=record.levelname.lower() if record.levelname.lower() in LEVELS else "info",
            source=str(fields.get("source") or self._source),
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
