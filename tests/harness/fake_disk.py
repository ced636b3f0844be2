"""A disk in memory that does what real ones do when the power goes, and fails when it is told to.

What a process wrote is seen by everybody at once; on the platter it is only what was synced:

    a file      content since its last fsync survives a power cut in any subset of its sectors; its size may have grown
                before its content came, which then reads as zeros; a truncation may be undone
    a name      a name made, moved or removed since the last fsync of its directory is there or not, each on its own;
                a rename within a directory happens whole or not at all; one between two directories never loses the
                file, but may leave it under both names
    an fsync    that fails has written some sectors and forgotten the rest: the pages count as clean, a second fsync
                succeeds without writing them, and the cache still shows them until it is dropped

This is more hostile than ext4 or XFS: what holds here holds there. `Process` is the port that the product sees.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from journal.storage import NotAFile, Storage
from tests.harness.fake_disk_nodes import Change, Directory, File, Node, apply, put

NEEDS_ROOM = frozenset({"create", "write", "allocate", "mkdir", "rename"})
"""Calls that a full disk refuses."""


class Shortened(Exception):
    """Raised by `before_call`: this write takes only a part of what it is given."""


class Killed(BaseException):
    """The process is gone, and nothing after this line of it happens."""


class PowerCut(BaseException):
    """Every process is gone, and what was not synced is in doubt."""


class Disk:
    """The file system that all processes share. `random` decides what a power cut leaves."""

    def __init__(self, random: Random, now: Callable[[], float] = lambda: 1_800_000_000.0) -> None:
        self.random = random
        self.now = now
        self.root = Directory(0)
        self.changes: list[Change] = []
        self.files: list[File] = []
        """Those with unsynced content."""
        self.capacity: int | None = None
        """Bytes; None: endless."""
        self.processes = 0
        self.before_call: Callable[[Process, str, str], None] = lambda *_: None
        """Asked before every call: (process, call, path). May raise what is to happen instead."""

    def process(self, name: str) -> Process:
        self.processes += 1
        return Process(self, name, self.processes)

    def mtime_ns(self) -> int:
        return int(self.now() * 1e9)

    def changed(self, *parts: tuple[Directory, str, Node | None]) -> None:
        for directory, name, node in parts:
            put(directory.entries, name, node)
        self.changes.append(Change(*parts))

    def sync_directory(self, directory: Directory) -> None:
        for change in self.changes:
            change.settle(directory)
        self.changes = [change for change in self.changes if change.open]

    def cut_power(self) -> None:
        """What was not synced is decided; then everything that is seen is what is on the platter."""
        random = self.random
        names_chance, content_chance = (random.choice([0.0, 0.2, 0.5, 0.8, 1.0]) for _ in range(2))
        in_order = random.random() < 0.3  # a journal of the file system: nothing survives what came before it
        for change in self.changes:
            if random.random() < names_chance:
                change.settle_all()
                continue
            if in_order:
                names_chance = 0.0
            directories = [directory for directory, _, _ in change.parts]
            if len(set(map(id, directories))) == 2 and id(directories[0]) not in change.open:
                change.settle(directories[1])  # the old name is gone for good, so the new one is there
        self.changes.clear()
        for file in self.files:
            file.lose(random, content_chance)
        self.files.clear()
        for node in _walk(self.root, durable=True):
            if isinstance(node, Directory):
                node.entries = dict(node.durable)
            else:
                node.data = bytearray(node.durable)
                node.stale = False
                node.allocated = min(node.allocated, len(node.data))
            node.holder.clear()

    def used_bytes(self) -> int:
        return sum(max(len(node.data), node.allocated) for node in _walk(self.root) if isinstance(node, File))

    def free_bytes(self) -> int:
        return 1 << 40 if self.capacity is None else max(0, self.capacity - self.used_bytes())

    def rot(self, path: Path) -> None:
        """One bit of a file flips on the platter."""
        file = self.find(str(path))
        assert isinstance(file, File)
        at, bit = self.random.randrange(len(file.data)), 1 << self.random.randrange(8)
        file.data[at] ^= bit
        if at < len(file.durable):
            file.durable[at] ^= bit

    def find(self, path: str) -> Node:
        node: Node = self.root
        for part in path.split("/"):
            if part:
                if isinstance(node, File):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
                if part not in node.entries:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
                node = node.entries[part]
        return node


def _walk(node: Node, *, durable: bool = False) -> Iterator[Node]:
    yield node
    if isinstance(node, Directory):
        for below in (node.durable if durable else node.entries).values():
            yield from _walk(below, durable=durable)


class _Open:
    __slots__ = ("append", "at", "node", "path")

    def __init__(self, node: Node, path: str, append: bool) -> None:
        self.node, self.path, self.append, self.at = node, path, append, 0


class Process(Storage):
    """The disk as one process sees it: its descriptors and its locks go with it."""

    def __init__(self, disk: Disk, name: str, number: int) -> None:
        self.disk, self.name, self.number = disk, name, number
        self.fds: dict[int, _Open] = {}
        self.calls = 0
        self.dead = False
        self._locked: list[Node] = []

    def die(self) -> None:
        """The kernel takes back what the process held; what it wrote stays seen."""
        self.dead = True
        self.fds.clear()
        for node in self._locked:
            node.holder.pop(self.number, None)
        self._locked.clear()

    def _call(self, name: str, path: str) -> None:
        if self.dead:
            raise Killed
        self.calls += 1
        self.disk.before_call(self, name, path)
        if self.dead:
            raise Killed

    def _open_file(self, fd: int) -> tuple[_Open, File]:
        opened = self.fds[fd]
        if isinstance(opened.node, Directory):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), opened.path)
        return opened, opened.node

    def _parent(self, path: str) -> tuple[Directory, str]:
        above, _, name = path.rpartition("/")
        parent = self.disk.find(above)
        if isinstance(parent, File):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        return parent, name

    # -- open files

    def open(self, path: Path, flags: int, mode: int = 0o640) -> int:
        text = os.fspath(path)
        parent, name = self._parent(text)
        node: Node | None = parent.entries.get(name) if name else parent
        if node is None and flags & os.O_CREAT:
            self._call("create", text)
            node = File(self.disk.mtime_ns())
            self.disk.changed((parent, name, node))
        else:
            self._call("open", text)
            if node is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), text)
            if flags & os.O_EXCL:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), text)
        if isinstance(node, Directory) and not flags & os.O_DIRECTORY:
            raise NotAFile(text, errno.EISDIR, "a directory")
        if flags & os.O_DIRECTORY and isinstance(node, File):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), text)
        fd = max(self.fds, default=2) + 1
        self.fds[fd] = _Open(node, text, bool(flags & os.O_APPEND))
        return fd

    def close(self, fd: int) -> None:
        if not self.dead:
            node = self.fds.pop(fd).node
            if not any(opened.node is node for opened in self.fds.values()):
                node.holder.pop(self.number, None)

    def read(self, fd: int, length: int, offset: int) -> bytes:
        opened, file = self._open_file(fd)
        self._call("read", opened.path)
        return bytes(file.data[offset : offset + length])

    def write(self, fd: int, data: bytes | memoryview) -> int:
        opened, file = self._open_file(fd)
        data = bytes(data)
        try:
            self._call("write", opened.path)
        except (Killed, PowerCut):
            if data:
                self._put(opened, file, data[: self.disk.random.randint(0, len(data))])
            raise
        except Shortened:
            data = data[: max(1, len(data) // 2)]
        if self.disk.capacity is not None:
            free = self.disk.free_bytes()
            if not free and data:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), opened.path)
            data = data[:free]
        self._put(opened, file, data)
        return len(data)

    def _put(self, opened: _Open, file: File, data: bytes) -> None:
        offset = len(file.data) if opened.append else opened.at
        apply(file.data, offset, data)
        opened.at = offset + len(data)
        if not file.dirty:
            self.disk.files.append(file)
        file.dirty.append((offset, data))
        file.mtime_ns = self.disk.mtime_ns()

    def truncate(self, fd: int, length: int) -> None:
        opened, file = self._open_file(fd)
        self._call("truncate", opened.path)
        apply(file.data, length, None)
        if not file.dirty:
            self.disk.files.append(file)
        file.dirty.append((length, None))

    def fsync(self, fd: int) -> None:
        opened = self.fds[fd]
        try:
            self._call("fsync", opened.path)
        except OSError:
            if isinstance(opened.node, File):
                opened.node.lose(self.disk.random, 0.5)
                opened.node.stale = True
            raise
        if isinstance(opened.node, File):
            opened.node.sync()
        else:
            self.disk.sync_directory(opened.node)

    def fdatasync(self, fd: int) -> None:
        self.fsync(fd)

    def allocate(self, fd: int, length: int) -> None:
        opened, file = self._open_file(fd)
        self._call("allocate", opened.path)
        if self.disk.capacity is not None and self.disk.free_bytes() < length - max(len(file.data), file.allocated):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), opened.path)
        file.allocated = max(file.allocated, length)
        if len(file.data) < length and length <= 1 << 16:
            apply(file.data, length, None)

    def size(self, fd: int) -> int:
        _, file = self._open_file(fd)
        return max(len(file.data), file.allocated)

    def drop_cache(self, fd: int, offset: int = 0) -> None:
        _, file = self._open_file(fd)
        if file.stale and not file.dirty:
            file.data = bytearray(file.durable)
            file.stale = False

    def try_lock(self, fd: int, *, shared: bool = False) -> bool:
        opened = self.fds[fd]
        self._call("lock", opened.path)
        holder = opened.node.holder
        others = [how for number, how in holder.items() if number != self.number]
        if others and not (shared and all(others)):
            return False
        holder[self.number] = shared
        self._locked.append(opened.node)
        return True

    def unlock(self, fd: int) -> None:
        if not self.dead:
            self.fds[fd].node.holder.pop(self.number, None)

    # -- names

    def exists(self, path: Path | str) -> bool:
        if self.dead:
            raise Killed
        try:
            self.disk.find(os.fspath(path))
        except OSError:
            return False
        return True

    def lexists(self, path: Path) -> bool:
        return self.exists(path)

    def stat(self, path: Path) -> os.stat_result:
        text = os.fspath(path)
        self._call("stat", text)
        return self._stat_of(self.disk.find(text))

    def fstat(self, fd: int) -> os.stat_result:
        return self._stat_of(self.fds[fd].node)

    def set_mode(self, fd: int, mode: int) -> None: ...

    def _stat_of(self, node: Node) -> os.stat_result:
        mode, size = (stat.S_IFREG | 0o644, len(node.data)) if isinstance(node, File) else (stat.S_IFDIR | 0o755, 0)
        seconds = node.mtime_ns // 10**9
        return os.stat_result(
            (mode, 0, 0, 1, os.geteuid(), 0, size, seconds, seconds, seconds), {"st_mtime_ns": node.mtime_ns}
        )

    def is_open_for_writing(self, path: Path) -> bool:
        return False

    def why_unreadable(self, path: Path) -> str | None:
        return None

    def names(self, directory: Path) -> list[str]:
        text = os.fspath(directory)
        self._call("names", text)
        node = self.disk.find(text)
        if isinstance(node, File):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), text)
        return list(node.entries)

    def mkdir(self, path: Path, mode: int = 0o750) -> None:
        text = os.fspath(path)
        self._call("mkdir", text)
        parent, name = self._parent(text)
        if name in parent.entries:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), text)
        self.disk.changed((parent, name, Directory(self.disk.mtime_ns())))

    def rmdir(self, path: Path) -> None:
        text = os.fspath(path)
        self._call("rmdir", text)
        parent, name = self._parent(text)
        node = self.disk.find(text)
        if isinstance(node, File):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), text)
        if node.entries:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), text)
        self.disk.changed((parent, name, None))

    def rename(self, source: Path, target: Path) -> None:
        from_text, to_text = os.fspath(source), os.fspath(target)
        self._call("rename", to_text)
        node = self.disk.find(from_text)
        from_directory, from_name = self._parent(from_text)
        to_directory, to_name = self._parent(to_text)
        there = to_directory.entries.get(to_name)
        if isinstance(there, Directory) and (isinstance(node, File) or there.entries):
            code = errno.EISDIR if isinstance(node, File) else errno.ENOTEMPTY
            raise OSError(code, os.strerror(code), to_text)
        if isinstance(there, File) and isinstance(node, Directory):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), to_text)
        self.disk.changed((from_directory, from_name, None), (to_directory, to_name, node))

    def unlink(self, path: Path) -> None:
        text = os.fspath(path)
        self._call("unlink", text)
        parent, name = self._parent(text)
        if isinstance(self.disk.find(text), Directory):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), text)
        self.disk.changed((parent, name, None))

    def free_bytes(self, path: Path) -> int:
        return self.disk.free_bytes()

    def total_bytes(self, path: Path) -> int:
        return 1 << 40 if self.disk.capacity is None else self.disk.capacity

    def random_name(self) -> str:
        return f"{self.disk.random.getrandbits(32):08x}"
