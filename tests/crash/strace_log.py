"""What strace wrote down, as the calls that change files below one directory, in the order in which they returned.

Strings are asked for in hexadecimal (`-xx`), so a line is cut up without guessing, and each file descriptor with its
path (`-y`), so no table of descriptors is needed. What this reader does not know how to replay is an error, never
passed over: a recording is only worth something if nothing is missing from it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

TRACED = (
    "?open,openat,?openat2,?creat,write,pwrite64,writev,pwritev,?pwritev2,ftruncate,truncate,fallocate,fsync,fdatasync,"
    "sync_file_range,?sync,?syncfs,?rename,renameat,renameat2,?unlink,unlinkat,?link,linkat,?symlink,symlinkat,"
    "?mkdir,mkdirat,?rmdir,mmap,sendfile,copy_file_range,splice"
)
STRING_BYTES_MAX = 1 << 26  # more than any file here: a write that was cut short would be a wrong recording

_HEX = r"(?:\\x[0-9a-f]{2})*"
_STRING = re.compile(rf'"({_HEX})"(\.\.\.)?')
_FILE = re.compile(rf"(?:\b\d+|AT_FDCWD)<({_HEX})>(\(deleted\))?")
_LINE = re.compile(r"(\d+)\s+(?:<\.\.\. (\w+) resumed>(.*)|(\w+)\((.*))", re.DOTALL)
_RESULT = re.compile(rf"\)\s+= (-?\d+|\?)(?:<({_HEX})>)?[^)]*(?:\([^)]*\))?$")
_UNFINISHED = " <unfinished ...>"
_DETACHED = " <detached ...>"  # killed so early that not even a question mark was left


class Call(NamedTuple):
    """One call that succeeded. `kind`: create, write, resize, sync, rename, remove, mkdir."""

    kind: str
    path: str
    """Relative to the directory that was recorded."""
    data: bytes = b""
    """Of a write."""
    at: int | None = None
    """Offset of a write (None: at the end of the file), size of a resize."""
    target: str = ""
    """Of a rename."""
    began: int = 0
    """Of a sync: how many calls had returned when it began. It promises nothing of what came later."""
    truncates: bool = False
    grows_only: bool = False


class NotReplayable(Exception):
    """A call in the recording has an effect that cannot be told from its arguments."""


class KilledInside(NotReplayable):
    """A process was killed within a call that changes a file: whether it came to pass is not in the recording."""


def why_not() -> str:
    """Why nothing can be recorded on this machine; empty if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(
        [*command(Path(os.devnull)), sys.executable, "-c", ""], capture_output=True, text=True, check=False
    )
    return f"strace cannot trace here: {tried.stderr.strip()[-200:]}" if tried.returncode else ""


def command(log: Path) -> list[str]:
    """What to put before a command to have it recorded in `log`."""
    strings = ["-y", "-xx", "-s", str(STRING_BYTES_MAX)]
    return ["strace", "-f", "--seccomp-bpf", *strings, "-e", f"trace={TRACED}", "-e", "signal=none", "-o", str(log)]


def read_log(log: Path, root: Path) -> list[Call]:
    """The calls on files below `root`. Raises NotReplayable, and KilledInside of it if another try may do."""
    with log.open(encoding="utf-8") as lines:
        return _read(lines, os.fspath(root) + "/")


def _read(lines: Iterable[str], root: str) -> list[Call]:
    calls: list[Call] = []
    begun: dict[str, tuple[str, str, int]] = {}
    positions: dict[str, int | None] = {}
    for line in lines:
        found = _LINE.match(line.rstrip("\n"))
        if found is None:
            continue  # an exit
        pid, resumed, rest, name, arguments = found.groups()
        began = len(calls)
        if resumed:
            name, start, began = begun.pop(pid)
            arguments = start + rest
        elif arguments.endswith(_DETACHED):
            arguments = f"{arguments.removesuffix(_DETACHED)}) = ?"
        elif arguments.endswith(_UNFINISHED):
            start = arguments.removesuffix(_UNFINISHED)
            count = start.rpartition(", ")[2]
            said = _call(name, f"{start}) = {count}", root, began) if name == "write" else None
            if said and said.path.startswith("said/"):  # it may have been read before the call returned
                calls.append(said)
                name = "said"
            begun[pid] = (name, start, began)
            continue
        call = _call(name, arguments, root, began)
        if call is None:
            continue
        if call.kind in {"open", "create"}:
            positions[call.path] = None if "O_APPEND" in arguments else 0
        elif call.kind == "write" and call.at is None and (at := positions.get(call.path)) is not None:
            call = call._replace(at=at)  # a file has one writer at a time here, but for those that append
            positions[call.path] = at + len(call.data)
        if call.kind != "open":
            calls.append(call)
    for name, start, _ in begun.values():
        _refuse_if_it_changes(name, start, root)
    return calls


def _call(name: str, text: str, root: str, began: int) -> Call | None:
    if name in {"said", "sync", "syncfs"} or "\\x" not in text:
        return None  # a global sync is not keepstep's; to pass it over promises less, not more
    result = _RESULT.search(text)
    if result is None:
        raise NotReplayable(f"{name}({text[:300]}")
    if result[1] == "?":
        _refuse_if_it_changes(name, text[: result.start()], root)
    if result[1].startswith("-") or result[1] == "?":
        return None
    arguments = text[: result.start()]
    paths = [path for path in _paths(name, arguments, result[2]) if path.startswith(root)]
    if not paths:
        return None
    path, target = paths[0].removeprefix(root), paths[-1].removeprefix(root)
    match name:
        case "open" | "openat" | "creat":
            if "O_TMPFILE" in arguments:
                raise NotReplayable(f"{name}: O_TMPFILE of {path}")
            truncates = "O_TRUNC" in arguments or name == "creat"
            if truncates or "O_CREAT" in arguments:
                return Call("create", path, truncates=truncates)
            return Call("open", path) if "O_WRONLY" in arguments or "O_RDWR" in arguments else None
        case "write" | "writev" | "pwrite64" | "pwritev":
            data = b"".join(_strings(arguments))[: int(result[1])]
            if len(data) != int(result[1]):
                raise NotReplayable(f"{name} of {path} was cut short")
            at = int(arguments.rsplit(", ", 1)[1]) if name.startswith("p") else None
            return Call("write", path, data=data, at=at)
        case "ftruncate" | "truncate":
            return Call("resize", path, at=int(arguments.rsplit(", ", 1)[1]))
        case "fallocate":
            mode, offset, length = arguments.rsplit(", ", 3)[1:]
            if mode != "0":
                raise NotReplayable(f"fallocate with mode {mode} of {path}")
            return Call("resize", path, at=int(offset) + int(length), grows_only=True)
        case "fsync" | "fdatasync":
            return Call("sync", path, began=began)
        case "rename" | "renameat" | "renameat2":
            if len(paths) != 2 or "EXCHANGE" in arguments:
                raise NotReplayable(f"{name} of {paths}")
            return Call("rename", path, target=target)
        case "unlink" | "unlinkat" | "rmdir":
            return Call("remove", path)
        case "mkdir" | "mkdirat":
            return Call("mkdir", path)
        case "symlink" | "symlinkat":
            return Call("create", target)  # where it leads is there with its name
        case "mmap":
            if "PROT_WRITE" in arguments and "MAP_SHARED" in arguments:
                raise NotReplayable(f"{path} is written through a mapping")
            return None
        case "sync_file_range":
            return None  # promises nothing about names or sizes
    raise NotReplayable(f"{name} of {path}")


def _refuse_if_it_changes(name: str, arguments: str, root: str) -> None:
    """Raises KilledInside if the call, had it come to its end, would have changed a file below `root`."""
    if name in _CHANGES_NOTHING or (
        name.startswith("open") and "O_CREAT" not in arguments and "O_TRUNC" not in arguments
    ):
        return
    for path in _paths(name, arguments, None):
        if path.startswith(root):
            raise KilledInside(f"{name} of {path.removeprefix(root)}")


def _paths(name: str, arguments: str, opened: str | None) -> Iterator[str]:
    """The files that a call is about, as absolute paths."""
    if opened is not None and name in {"open", "openat", "creat"}:
        yield _text(opened)
        return
    before = "/"
    named = False
    for found in re.finditer(rf"{_FILE.pattern}|{_STRING.pattern}", arguments):
        directory, deleted, string, _ = found.groups()
        if directory is not None:
            before = _text(directory)
            if not deleted and name not in _NAMED:
                yield before
        elif name in _NAMED and string is not None:
            named = True
            yield os.path.normpath(os.path.join(before, _text(string)))  # noqa: PTH118 - nothing is looked up
    if name in _NAMED and not named:
        raise NotReplayable(f"{name}({arguments[:200]}")


_NAMED = {
    "open", "openat", "openat2", "creat", "truncate", "rename", "renameat", "renameat2", "unlink", "unlinkat", "link",
    "linkat", "symlink", "symlinkat", "mkdir", "mkdirat", "rmdir",
}  # fmt: skip


_CHANGES_NOTHING = {"said", "fsync", "fdatasync", "sync", "syncfs", "sync_file_range", "mmap"}


def _strings(arguments: str) -> Sequence[bytes]:
    return [bytes.fromhex(found[1].replace("\\x", "")) for found in _STRING.finditer(arguments)]


def _text(encoded: str) -> str:
    return os.fsdecode(bytes.fromhex(encoded.replace("\\x", "")))
