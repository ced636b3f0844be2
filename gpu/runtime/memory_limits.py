"""How much memory there is for us: the machine's, and less where a control group has a limit (a systemd unit with
`MemoryMax=`, a container). The group that this process is in counts, and each that it lies in.

    in use       what is charged to the group, without the cache of files: the kernel gives that back before it lets
                 anything fail, as it does for the machine's "available"
    available    limit − in use

cgroup v2: https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files (`memory.high` slows down whoever
goes beyond it, so it is a limit, too). cgroup v1: https://docs.kernel.org/admin-guide/cgroup-v1/memory.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import psutil

PROC = Path("/proc/self")

NO_LIMIT_BYTES = 1 << 60
"""How v1 says that there is none: about 2^63. No machine has an exabyte."""


class Files(NamedTuple):
    """How the files of a version of control groups are called."""

    limits: tuple[str, ...]
    usage: str
    cache: tuple[str, ...]
    """Lines of `memory.stat`."""


V2 = Files(("memory.max", "memory.high"), "memory.current", ("inactive_file", "active_file"))
V1 = Files(
    ("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")
)  # `total_`: with the groups below, as in v2


class GroupMemory(NamedTuple):
    """A control group with a limit."""

    name: str
    """Its path below the mount point; "/" in a container that sees no more than its own."""
    total_bytes: int
    """The limit."""
    available_bytes: int


def memory_of_groups(*, proc: Path = PROC, root: Path = Path("/")) -> tuple[GroupMemory, ...]:
    """The groups with a limit that this process is in, the innermost first. Empty where there is none, or nobody says.

    `root`: where the file systems are mounted.
    """
    found = []
    for mount, path, files in _mounted(proc, root):
        for name in (path, *path.parents):
            limited = _read(mount / str(name).lstrip("/"), str(name), files)
            if limited is not None:
                found.append(limited)
    return tuple(found)


def available_bytes(*, proc: Path = PROC, root: Path = Path("/")) -> int:
    """What can still be had, of the machine and of every group."""
    groups = memory_of_groups(proc=proc, root=root)
    return min(psutil.virtual_memory().available, *(each.available_bytes for each in groups), NO_LIMIT_BYTES)


def _mounted(proc: Path, root: Path) -> Iterator[tuple[Path, PurePosixPath, Files]]:
    """Where the memory of groups is told of: mount point, our group below it, and how its files are called."""
    try:
        groups = (proc / "cgroup").read_text(encoding="utf-8").splitlines()
        mounts = (proc / "mountinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError):  # not Linux, or nothing is to be seen here
        return
    ours = {controller: path for line in groups for controller, path in _line_of(line)}
    for line in mounts:
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        top, point = fields[3], fields[4].replace("\\040", " ")
        if kind[0] == "cgroup2" and "" in ours:
            path, files = ours[""], V2
        elif kind[0] == "cgroup" and "memory" in kind[2].split(",") and "memory" in ours:
            path, files = ours["memory"], V1
        else:
            continue
        yield root / point.lstrip("/"), _below(path, top), files


def _line_of(line: str) -> Iterator[tuple[str, str]]:
    """`4:memory:/a` and `0::/a`: the controllers ("": all of v2) and the path."""
    _, found, rest = line.partition(":")
    controllers, _, path = rest.partition(":")
    if found:
        yield from ((controller, path) for controller in controllers.split(","))


def _below(path: str, top: str) -> PurePosixPath:
    """The group as it is seen at the mount point, where `top` of the hierarchy is mounted. A group that is not below it
    (a container without a namespace of its own) is not to be seen; what is mounted is what binds it."""
    group, mounted = PurePosixPath(path), PurePosixPath(top)
    return PurePosixPath("/") / (group.relative_to(mounted) if group.is_relative_to(mounted) else "")


def _read(directory: Path, name: str, files: Files) -> GroupMemory | None:
    """None: there is no limit, or the group cannot be read."""
    limits = [limit for file in files.limits if (limit := _number(directory / file)) is not None]
    limit, used = min(limits, default=NO_LIMIT_BYTES), _number(directory / files.usage)
    if limit >= NO_LIMIT_BYTES or used is None:
        return None
    in_use = max(0, used - sum(_counted(directory / "memory.stat", files.cache)))
    return GroupMemory(name, limit, max(0, limit - in_use))


def _number(path: Path) -> int | None:
    """The number in a file; None for "max", and where there is no file."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        return None
    return int(text) if text.isdecimal() else None


def _counted(path: Path, names: tuple[str, ...]) -> list[int]:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeError):
        return []
    pairs = (line.partition(" ") for line in lines)
    return [int(value) for name, _, value in pairs if name in names and value.isdecimal()]
