"""Recognise what a file is by its first bytes, and refuse the containers that keepstep does not read.

Such a file is refused as a whole, with what it is and what to do, instead of one broken line after another. No advice
here suggests plain text: rows, markup or a table trained as text would teach their syntax.
"""

from __future__ import annotations

import csv
import json
import re
from itertools import islice
from typing import NamedTuple

BOM = b"\xef\xbb\xbf"

_WIDE = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""Byte order marks; the longer ones come first, because a short one is the beginning of a long one."""

_CONVERT = (
    "keepstep reads JSON Lines, JSON arrays, CSV and TSV with a header (also in gzip or zstd), and Parquet. Convert "
    "the file to one of these."
)
_ARROW = (
    "Convert it with the library datasets: `Dataset.from_file(FILE).to_json(NEW)`, or "
    "`load_from_disk(DIRECTORY).to_json(NEW)` for a directory from `save_to_disk`. Then add NEW."
)
_UNPACK_TAR = "Unpack it (`tar -xf FILE`), then add the files inside."
_DOWNLOAD_FILE = "The download returned a web page instead of the data. Download the file itself, then add it."

_SIGNATURES: dict[bytes, tuple[str, str]] = {
    b"PK\x03\x04": ("a zip archive, or a spreadsheet or document in one", _CONVERT),
    b"BZh": ("compressed with bzip2", _CONVERT),
    b"\xfd7zXZ\0": ("compressed with xz", _CONVERT),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _CONVERT),
    b"\x04\x22\x4d\x18": ("compressed with lz4", _CONVERT),
    b"PARE": ("an encrypted Parquet file", _CONVERT),
    b"ARROW1": ("an Arrow file", _ARROW),
    b"\xff\xff\xff\xff": ("an Arrow stream, as `save_to_disk` and the cache of datasets write it", _ARROW),
    b"FEA1": ("a Feather file", _ARROW),
    b"Obj\x01": ("an Avro file", _CONVERT),
    b"ORC": ("an ORC file", _CONVERT),
    b"\x89HDF": ("an HDF5 file", _CONVERT),
    b"\x93NUMPY": ("a NumPy array", _CONVERT),
    b"SQLite format 3\0": ("a SQLite database", _CONVERT),
    b"%PDF-": ("a PDF document", _CONVERT),
    b"{\\rtf": ("an RTF document", _CONVERT),
    b"\xd0\xcf\x11\xe0": ("an old Office document", _CONVERT),
    b"Rar!": ("a rar archive", _CONVERT),
    b"\x89PNG": ("a picture", _CONVERT),
    b"\xff\xd8\xff": ("a picture", _CONVERT),
    b"GGUF": ("the weights of a model", _CONVERT),
    b"version https://git-lfs.github.com/spec/": (
        "a git-lfs pointer: the data itself was not downloaded",
        "Run `git lfs pull` in its repository, then add the file again.",
    ),
}

_PAGE = re.compile(rb"<(!doctype\s+html|html|head|body|title|meta|script)\b", re.IGNORECASE)
_MARKUP = re.compile(rb"<\?xml|<!doctype|<[a-z][\w:.-]*(\s[^<>]*)?>", re.IGNORECASE)
"""Matches the first tag of a document; Markdown may begin with one, rows may not."""

TAR_AT = 257
"""Offset at which POSIX and GNU tar write `ustar`."""

WRAPPERS = ("data", "rows", "examples", "train", "items", "records", "instances", "samples", "results")
"""Keys under which one JSON object around a whole file keeps its rows."""

_SCALAR = rb'(?:"(?:[^"\\]|\\.)*"|-?[\d.eE+-]+|true|false|null)'
_WRAPPED = re.compile(rb'\{\s*(?:"(?:[^"\\]|\\.)*"\s*:\s*' + _SCALAR + rb'\s*,\s*)*"(?P<key>[^"\\]*)"\s*:\s*\[\s*\{')
_LIST_LINES = re.compile(rb"\[[^\n]*\]\s*\n\s*\[")
_MESSAGE_KEYS = {"messages": {"role", "content"}, "conversations": {"from", "value"}}


DELIMITERS = {",": "CSV", "\t": "TSV", ";": "CSV with semicolons", "|": "CSV with bars"}

COMMON_FIELDS = frozenset(
    {"prompt", "completion", "response", "instruction", "input", "output", "context", "question"}
) | {
    *("answer", "query", "text", "messages", "conversations", "system", "history", "source", "target"),
    *("chosen", "rejected", "label"),
}
"""Names in a header that the first line of a plain text does not have."""

SNIFFED_ROWS = 20
"""Rows that must agree with a header without a known name."""

_WORD = re.compile(r"\w[\w.-]{0,63}")


class UnsupportedFile(NamedTuple):
    """A file that keepstep does not read."""

    name: str
    """Name of the problem, in `gpu.data.problems.PROBLEMS`."""
    what: str
    advice: str


def find_unsupported(head: bytes, *, packed: bool = False, plain_text: bool = False) -> UnsupportedFile | None:
    """Return what the file is and what to do, if keepstep does not read it; None if it does.

    `head`: its first bytes. `packed`: they were compressed. `plain_text`: the file is to be read as plain text.
    """
    if (wide := _wide_encoding(head)) is not None:
        advice = "Convert it: `iconv -f UTF-16 -t UTF-8 FILE > NEW`, then add NEW."
        return UnsupportedFile("wrong_encoding", f"the file is {wide}; keepstep reads UTF-8", advice)
    text = head.removeprefix(BOM).lstrip()
    found = _signature(head, packed=packed) or _markup(text, plain_text=plain_text) or _misplaced_rows(text)
    if found is None:
        return None
    what, advice = found
    return UnsupportedFile(
        "unknown_container", f"the file is {what}{' inside compressed data' if packed else ''}", advice
    )


def is_array(head: bytes) -> bool:
    """True if the file is one JSON array."""
    return head.removeprefix(BOM).lstrip().startswith(b"[")


def is_plain_text(head: bytes) -> bool:
    """True if the file can be plain text: no container, no rows, no markup, no table."""
    text = head.removeprefix(BOM).lstrip()
    known = text[:1] in (b"{", b"[") and not _is_markdown(text)
    packed = head.startswith((b"PAR1", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"))
    other = known or packed or b"\0" in head or csv_delimiter(head) is not None
    return bool(text) and not other and find_unsupported(head, plain_text=True) is None


def _is_markdown(text: bytes) -> bool:
    """True if the text begins with a Markdown link or checkbox: `[keepstep](https://…)`, `[ ] buy milk`."""
    return re.match(rb"\[[^\]\n{\"]*\](\(|:|\s+\w)", text) is not None


def _wide_encoding(head: bytes) -> str | None:
    named = next((name for mark, name in _WIDE.items() if head.startswith(mark)), None)
    zeros = len(head) >= 4 and ((head[0] == 0) != (head[1] == 0) or (head[:3] == b"\0\0\0" and head[3]))
    return named or ("UTF-16 or UTF-32, by its NUL bytes" if zeros else None)


def _signature(head: bytes, *, packed: bool) -> tuple[str, str] | None:
    if head[TAR_AT : TAR_AT + 5] == b"ustar":
        return "a tar archive", _UNPACK_TAR
    twice = ("more compressed data", _CONVERT)
    inside = {b"PAR1": ("a Parquet file", _CONVERT), b"\x1f\x8b": twice, b"\x28\xb5\x2f\xfd": twice} if packed else {}
    return next(
        (description for signature, description in {**_SIGNATURES, **inside}.items() if head.startswith(signature)),
        None,
    )


def _markup(text: bytes, *, plain_text: bool) -> tuple[str, str] | None:
    if _PAGE.match(text):
        return "an HTML page", _DOWNLOAD_FILE
    return ("an XML or HTML document", _CONVERT) if not plain_text and _MARKUP.match(text) else None


def _misplaced_rows(text: bytes) -> tuple[str, str] | None:
    """Describe JSON whose rows are not at the top level, and how to get them out; None if it is nothing of that
    kind."""
    if text.startswith(b"[") and ((key := _conversation_key(text)) or _LIST_LINES.match(text)):
        made = f"{{{key}: .}}" if key else "{messages: .}"
        what = "made of JSON lists, each a conversation or a row; keepstep expects each row as a JSON object"
        return what, f"Write objects, for example with `jq -c '{made}' FILE > NEW.jsonl`. Then add NEW.jsonl."
    wrapped = _WRAPPED.match(text)
    if wrapped is not None and wrapped["key"].decode(errors="replace") in WRAPPERS:
        key = wrapped["key"].decode()
        what = f"one JSON object with its rows in the list {key!r}"
        return what, f"Extract the rows: `jq -c '.{key}[]' FILE > NEW.jsonl`. Then add NEW.jsonl."
    return None


def _conversation_key(text: bytes) -> str | None:
    """Return the key that the array needs, if it is one conversation (its first element is a message); else None."""
    try:
        first, _ = json.JSONDecoder().raw_decode(text.decode(errors="replace"), len(text) - len(text[1:].lstrip()))
    except ValueError:
        return None
    return next((key for key, keys in _MESSAGE_KEYS.items() if isinstance(first, dict) and keys <= first.keys()), None)


def csv_delimiter(head: bytes) -> str | None:
    """Return the delimiter of the table that begins with `head`; None if it is no table with a header."""
    text = head.removeprefix(b"\xef\xbb\xbf").decode(errors="ignore")
    if text[:1] in ("", "{", "[", "<"):
        return None
    for delimiter in DELIMITERS:
        if _is_table(text, delimiter):
            return delimiter
    return None


def _is_table(text: str, delimiter: str) -> bool:
    lines = text.splitlines(keepends=True)
    if not text.endswith(("\n", "\r")) and len(lines) > 1:
        del lines[-1]  # the last line may continue
    try:
        header = [name.strip() for name in next(csv.reader(lines[:1], delimiter=delimiter, strict=True), [])]
        known = {name.lower() for name in header} & COMMON_FIELDS
        if not header or len({*header}) < len(header) or not all(map(_WORD.fullmatch, header)):
            return False
        if len(header) == 1:
            return header == ["text"] and delimiter == ","
        if known:
            return True
        rows = list(islice(csv.reader(lines, delimiter=delimiter, strict=True), SNIFFED_ROWS))
    except csv.Error:
        return False
    return len(rows) > 2 and all(len(row) == len(header) for row in rows if row)
