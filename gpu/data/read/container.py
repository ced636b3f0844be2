"""What a file is, by its beginning: the signatures, and files that would only give one broken line after another.

A file that is none of keepstep's containers is refused whole, in words that say what it is and what to do. No advice
here makes plain text of it: rows, markup or a table trained as text would teach their syntax.
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
"""Byte order marks; the longer ones first, one is the beginning of another."""

_CONVERT = (
    "keepstep reads JSON Lines, JSON arrays, CSV and TSV with a header, as they are or in gzip or zstd, and Parquet. "
    "Convert the file."
)
_ARROW = (
    "Convert it with the library datasets: `Dataset.from_file(FILE).to_json(NEW)`, or, for a directory of "
    "`save_to_disk`, `load_from_disk(DIRECTORY).to_json(NEW)`. Then add NEW."
)
_UNTAR = "Unpack it (`tar -xf FILE`), then add the files that are in it."
_FETCH_AGAIN = "The download gave a page instead of the data. Download the file itself, then add it."

_SIGNATURES: dict[bytes, tuple[str, str]] = {
    b"PK\x03\x04": ("a zip archive, or a spreadsheet or document made of one", _CONVERT),
    b"BZh": ("compressed with bzip2", _CONVERT),
    b"\xfd7zXZ\0": ("compressed with xz", _CONVERT),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _CONVERT),
    b"\x04\x22\x4d\x18": ("compressed with lz4", _CONVERT),
    b"PARE": ("an encrypted Parquet file", _CONVERT),
    b"ARROW1": ("an Arrow file", _ARROW),
    b"\xff\xff\xff\xff": ("an Arrow stream, as `save_to_disk` and the cache of datasets have it", _ARROW),
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
        "a pointer of git-lfs: the data itself was not downloaded",
        "Run `git lfs pull` where it comes from, then add the file again.",
    ),
}

_PAGE = re.compile(rb"<(!doctype\s+html|html|head|body|title|meta|script)\b", re.IGNORECASE)
_MARKUP = re.compile(rb"<\?xml|<!doctype|<[a-z][\w:.-]*(\s[^<>]*)?>", re.IGNORECASE)
"""Markdown may begin with a tag, and rows may not."""

TAR_AT = 257
"""Where POSIX and GNU tar write `ustar`."""

WRAPPERS = ("data", "rows", "examples", "train", "items", "records", "instances", "samples", "results")
"""Keys of one JSON object under which whole files keep their rows."""

_SCALAR = rb'(?:"(?:[^"\\]|\\.)*"|-?[\d.eE+-]+|true|false|null)'
_WRAPPED = re.compile(rb'\{\s*(?:"(?:[^"\\]|\\.)*"\s*:\s*' + _SCALAR + rb'\s*,\s*)*"(?P<key>[^"\\]*)"\s*:\s*\[\s*\{')
_LISTS = re.compile(rb"\[[^\n]*\]\s*\n\s*\[")
_MESSAGE_KEYS = {"messages": {"role", "content"}, "conversations": {"from", "value"}}


DELIMITERS = {",": "CSV", "\t": "TSV", ";": "CSV with semicolons", "|": "CSV with bars"}

KNOWN = frozenset({"prompt", "completion", "response", "instruction", "input", "output", "context", "question"}) | {
    *("answer", "query", "text", "messages", "conversations", "system", "history", "source", "target"),
    *("chosen", "rejected", "label"),
}
"""Names in a header that prose does not have in its first line."""

SNIFFED_ROWS = 20
"""So many rows must agree with a header that has no known name."""

_WORD = re.compile(r"\w[\w.-]{0,63}")


class Foreign(NamedTuple):
    """Why a file is refused whole."""

    name: str
    """In `gpu.data.format.problems.PROBLEMS`."""
    what: str
    advice: str


def foreign(head: bytes, *, packed: bool = False, plain_text: bool = False) -> Foreign | None:
    """What the file that begins with `head` is, if it is no container of keepstep's.

    `packed`: it was found inside compressed data. `plain_text`: it is to be read as that.
    """
    if (wide := _wide(head)) is not None:
        advice = "Convert it: `iconv -f UTF-16 -t UTF-8 FILE > NEW`, then add the new file."
        return Foreign("wrong_encoding", f"the file is {wide}; keepstep reads UTF-8", advice)
    text = head.removeprefix(BOM).lstrip()
    found = _signature(head, packed=packed) or _markup(text, plain_text=plain_text) or _shape(text)
    if found is None:
        return None
    what, advice = found
    return Foreign("unknown_container", f"the file is {what}{' inside compressed data' if packed else ''}", advice)


def is_array(head: bytes) -> bool:
    """Whether the file is one JSON array."""
    return head.removeprefix(BOM).lstrip().startswith(b"[")


def is_prose(head: bytes) -> bool:
    """Whether the file that begins with `head` can be plain text: no container, no rows, no markup, no table."""
    text = head.removeprefix(BOM).lstrip()
    known = text[:1] in (b"{", b"[") and not _is_markdown(text)
    packed = head.startswith((b"PAR1", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"))
    other = known or packed or b"\0" in head or csv_delimiter(head) is not None
    return bool(text) and not other and foreign(head, plain_text=True) is None


def _is_markdown(text: bytes) -> bool:
    """A link or a checkbox at the beginning: `[keepstep](https://…)`, `[ ] buy milk`."""
    return re.match(rb"\[[^\]\n{\"]*\](\(|:|\s+\w)", text) is not None


def _wide(head: bytes) -> str | None:
    named = next((name for mark, name in _WIDE.items() if head.startswith(mark)), None)
    zeros = len(head) >= 4 and ((head[0] == 0) != (head[1] == 0) or (head[:3] == b"\0\0\0" and head[3]))
    return named or ("UTF-16 or UTF-32, by its NUL bytes" if zeros else None)


def _signature(head: bytes, *, packed: bool) -> tuple[str, str] | None:
    if head[TAR_AT : TAR_AT + 5] == b"ustar":
        return "a tar archive", _UNTAR
    inside = {b"PAR1": ("a Parquet file", _CONVERT), b"\x1f\x8b": ("compressed once more", _CONVERT)} if packed else {}
    if packed and head.startswith(b"\x28\xb5\x2f\xfd"):
        return "compressed twice", _CONVERT
    return next((said for signature, said in {**_SIGNATURES, **inside}.items() if head.startswith(signature)), None)


def _markup(text: bytes, *, plain_text: bool) -> tuple[str, str] | None:
    if _PAGE.match(text):
        return "an HTML page", _FETCH_AGAIN
    return ("an XML or HTML document", _CONVERT) if not plain_text and _MARKUP.match(text) else None


def _shape(text: bytes) -> tuple[str, str] | None:
    """JSON whose rows are not where a row is looked for."""
    if text.startswith(b"[") and ((key := _key_of_conversation(text)) or _LISTS.match(text)):
        made = f"{{{key}: .}}" if key else "{messages: .}"
        what = "made of JSON lists, each a conversation or a row; a row is a JSON object"
        return what, f"Make objects of them, for example `jq -c '{made}' FILE > NEW.jsonl`. Then add NEW.jsonl."
    wrapped = _WRAPPED.match(text)
    if wrapped is not None and wrapped["key"].decode(errors="replace") in WRAPPERS:
        key = wrapped["key"].decode()
        what = f"one JSON object that holds its rows in the list {key!r}"
        return what, f"Take them out: `jq -c '.{key}[]' FILE > NEW.jsonl`. Then add NEW.jsonl."
    return None


def _key_of_conversation(text: bytes) -> str | None:
    """The key that the array would need if it is one conversation: if its first element is a message. Else None."""
    try:
        first, _ = json.JSONDecoder().raw_decode(text.decode(errors="replace"), len(text) - len(text[1:].lstrip()))
    except ValueError:
        return None
    return next((key for key, keys in _MESSAGE_KEYS.items() if isinstance(first, dict) and keys <= first.keys()), None)


def csv_delimiter(head: bytes) -> str | None:
    """What separates the fields of the file that begins with `head`; None: it is no table with a header."""
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
        del lines[-1]  # it may go on
    try:
        header = [name.strip() for name in next(csv.reader(lines[:1], delimiter=delimiter, strict=True), [])]
        known = {name.lower() for name in header} & KNOWN
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
