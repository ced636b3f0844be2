"""What stands on a simulated disk: files, directories, and changes of names, in the cache and on the platter."""

from __future__ import annotations

from random import Random

SECTOR_BYTES = 512


class File:
    """A file's content: in the cache, on the platter, and what is on its way."""

    __slots__ = ("allocated", "data", "dirty", "durable", "holder", "mtime_ns", "stale")

    def __init__(self, mtime_ns: int) -> None:
        self.data = bytearray()
        self.durable = bytearray()
        self.dirty: list[tuple[int, bytes | None]] = []
        """(offset, bytes) written, or (length, None) truncated, since the last sync."""
        self.stale = False
        """An fsync failed: the cache shows what the platter never got."""
        self.allocated = 0
        self.mtime_ns = mtime_ns
        self.holder: dict[int, bool] = {}
        """Who holds the lock: process number → whether shared."""

    def sync(self) -> None:
        for offset, data in self.dirty:
            apply(self.durable, offset, data)
        self.dirty.clear()

    def lose(self, random: Random, chance: float) -> None:
        """What becomes of unsynced content: each sector is written with this chance."""
        before = len(self.durable)
        for offset, data in self.dirty:
            if data is None:
                if random.random() < chance:
                    apply(self.durable, offset, None)
                continue
            for start in range(offset - offset % SECTOR_BYTES, offset + len(data), SECTOR_BYTES):
                first, last = max(start, offset), min(start + SECTOR_BYTES, offset + len(data))
                if random.random() < chance:
                    apply(self.durable, first, data[first - offset : last - offset])
        if len(self.data) > len(self.durable) and random.random() < 0.3:  # the size came before the content
            grown = random.choice([len(self.data), random.randint(len(self.durable), len(self.data))])
            self.durable.extend(bytes(grown - len(self.durable)))
        elif len(self.durable) > before and random.random() < 0.2:  # content came before the size
            del self.durable[random.randint(before, len(self.durable)) :]
        self.dirty.clear()


def apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        if len(content) > offset:
            del content[offset:]
        else:
            content.extend(bytes(offset - len(content)))
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


class Directory:
    """Names: as everybody sees them, and on the platter."""

    __slots__ = ("durable", "entries", "holder", "mtime_ns")

    def __init__(self, mtime_ns: int) -> None:
        self.entries: dict[str, Node] = {}
        self.durable: dict[str, Node] = {}
        self.holder: dict[int, bool] = {}
        self.mtime_ns = mtime_ns


Node = File | Directory


class Change:
    """Names that change together; `open` are the directories in which that is not on the platter yet."""

    __slots__ = ("open", "parts")

    def __init__(self, *parts: tuple[Directory, str, Node | None]) -> None:
        self.parts = parts
        self.open = {id(directory) for directory, _, _ in parts}

    def settle(self, directory: Directory) -> None:
        if id(directory) in self.open:
            self.open.discard(id(directory))
            for at, name, node in self.parts:
                if at is directory:
                    put(at.durable, name, node)

    def settle_all(self) -> None:
        for directory, _, _ in self.parts:
            self.settle(directory)


def put(names: dict[str, Node], name: str, node: Node | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node
