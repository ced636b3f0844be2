"""The memory that this process may use: that of the machine, or less if a control group has a limit.

A limit comes from a systemd unit with `MemoryMax=` or from a container. The group of this process counts, and each
group that contains it.

    in use       the memory charged to the group, without the page cache: the kernel frees that before an allocation
                 fails, as it does for the machine's "available"
    available    limit − in use

cgroup v2: https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files (`memory.high` slows a
group that exceeds it, so it counts as a limit). cgroup v1: https://docs.kernel.org/admin-guide/cgroup-v1/memory.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

PROC = Path("/proc/self")

MEMINFO = Path("/proc/meminfo")
"""https://docs.kernel.org/filesystems/proc.html#meminfo. Only other systems need psutil, which takes long to import."""

NO_LIMIT_BYTES = 1 << 60
"""v1 reports about 2^63 if there is no limit. No machine has an exabyte."""


class Files(NamedTuple):
    """The names of the files in one version of control groups."""

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
    """Its path below the mount point; "/" in a container that sees only its own group."""
    total_bytes: int
    """The limit."""
    available_bytes: int


class MachineMemory(NamedTuple):
    """The memory of the machine, bytes."""

    total: int
    available: int
    """What can be allocated without swapping."""
    swap_used: int


def machine_memory() -> MachineMemory:
    """Return the memory of the machine."""
    names = ("MemTotal:", "MemAvailable:", "SwapTotal:", "SwapFree:")
    try:
        lines = [line.split() for line in MEMINFO.read_text(encoding="ascii").splitlines()]
        kib = {fields[0]: int(fields[1]) for fields in lines if fields[0] in names}
        total, available, swap, swap_free = (1024 * kib[name] for name in names)
    except (OSError, UnicodeError, KeyError):  # not Linux, or older than 3.14
        import psutil

        found = psutil.virtual_memory()
        return MachineMemory(found.total, found.available, psutil.swap_memory().used)
    return MachineMemory(total, available, swap - swap_free)


def memory_of_groups(*, proc: Path = PROC, root: Path = Path("/")) -> tuple[GroupMemory, ...]:
    """Return the groups with a limit that this process is in, the innermost first; () if none is found.

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
    """Return the bytes that this process can still allocate."""
    groups = memory_of_groups(proc=proc, root=root)
    return min(machine_memory().available, *(each.available_bytes for each in groups), NO_LIMIT_BYTES)


def total_bytes() -> int:
    """Return the bytes of memory that this process may use when no other process uses any."""
    return min(machine_memory().total, *(each.total_bytes for each in memory_of_groups()), NO_LIMIT_BYTES)


def _mounted(proc: Path, root: Path) -> Iterator[tuple[Path, PurePosixPath, Files]]:
    """Yield for each hierarchy with memory limits: mount point, our group below it, and the names of its files."""
    try:
        groups = (proc / "cgroup").read_text(encoding="utf-8").splitlines()
        mounts = (proc / "mountinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError):  # not Linux, or no access
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
    """Yield controllers ("": all of v2) and path of a line such as `4:memory:/a` or `0::/a`."""
    _, found, rest = line.partition(":")
    controllers, _, path = rest.partition(":")
    if found:
        yield from ((controller, path) for controller in controllers.split(","))


def _below(path: str, top: str) -> PurePosixPath:
    """Return the path of a group below the mount point of `top`.

    A group outside of `top` (in a container without a cgroup namespace) is not visible; then `top` itself limits it.
    """
    group, mounted = PurePosixPath(path), PurePosixPath(top)
    return PurePosixPath("/") / (group.relative_to(mounted) if group.is_relative_to(mounted) else "")


def _read(directory: Path, name: str, files: Files) -> GroupMemory | None:
    """Return the group; None if it has no limit or cannot be read."""
    limits = [limit for file in files.limits if (limit := _number(directory / file)) is not None]
    limit, used = min(limits, default=NO_LIMIT_BYTES), _number(directory / files.usage)
    if limit >= NO_LIMIT_BYTES or used is None:
        return None
    in_use = max(0, used - sum(_counted(directory / "memory.stat", files.cache)))
    return GroupMemory(name, limit, max(0, limit - in_use))


def _number(path: Path) -> int | None:
    """Return the number in a file; None for "max" or a missing file."""
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
