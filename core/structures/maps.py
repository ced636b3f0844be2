"""A persistent map from ids to values: changing it gives a new one and leaves the old one as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

from rpds import HashTrieMap

Value = TypeVar("Value")
Held = TypeVar("Held", covariant=True)


class Ground(Protocol[Held]):
    """Entries that a map starts with and does not own: it looks them up one by one, where they are stored."""

    def __len__(self) -> int: ...

    def get(self, key: str) -> Held | None:
        """The value at `key`; None if there is none. The same object every time."""

    def items(self) -> Iterator[tuple[str, Held]]:
        """All pairs."""


_GONE: Any = object()
"""Marks an entry of the ground that was removed."""


class Map(Generic[Value]):
    """rpds' hash trie under a name that can be subscripted at run time, which the snapshot's typed decoder needs.

    Every operation costs the same however many entries there are, to within a logarithm to the base 32. A map may lie
    `over` a ground: it then holds only the differences.
    """

    __slots__ = ("_ground", "_length", "_trie")

    def __init__(self, entries: Mapping[str, Value] | HashTrieMap[str, Value] | None = None) -> None:
        self._trie: HashTrieMap[str, Value] = HashTrieMap(entries or {})
        self._ground: Ground[Value] | None = None
        self._length = len(self._trie)

    @classmethod
    def over(cls, ground: Ground[Value]) -> Map[Value]:
        """A map of everything in `ground`."""
        return cls()._with(HashTrieMap(), len(ground), ground)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, key: str) -> Value:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Map):
            return False
        if self._ground is None and other._ground is None:
            return bool(self._trie == other._trie)
        return len(self) == len(other) and dict(self.items()) == dict(other.items())

    __hash__ = None  # type: ignore[assignment]  # values need not be hashable

    def __repr__(self) -> str:
        return f"Map({dict(self.items())!r})"

    def get(self, key: str) -> Value | None:
        """The value at `key`; None if there is none."""
        value = self._trie.get(key)
        if value is None and self._ground is not None:
            return self._ground.get(key)
        return None if value is _GONE else value

    def insert(self, key: str, value: Value) -> Map[Value]:
        """Set the value at `key`."""
        length = self._length + (self.get(key) is None)
        return self._with(self._trie.insert(key, value), length, self._ground)

    def remove(self, key: str) -> Map[Value]:
        """Remove `key`. Raises KeyError if it is not there."""
        self[key]
        if self._ground is not None and self._ground.get(key) is not None:
            trie = self._trie.insert(key, _GONE)
        else:
            trie = self._trie.remove(key)
        return self._with(trie, self._length - 1, self._ground)

    def items(self) -> Iterator[tuple[str, Value]]:
        """Pairs, in no order that means anything."""
        yield from ((key, value) for key, value in self._trie.items() if value is not _GONE)
        if self._ground is not None:
            yield from (pair for pair in self._ground.items() if pair[0] not in self._trie)

    def values(self) -> Iterator[Value]:
        """Values, in no order that means anything."""
        return (value for _, value in self.items())

    def _with(self, trie: HashTrieMap[str, Value], length: int, ground: Ground[Value] | None) -> Map[Value]:
        made: Map[Value] = Map.__new__(Map)
        if not length:
            trie, ground = HashTrieMap(), None  # keep nothing for entries that are gone
        made._trie, made._length, made._ground = trie, length, ground
        return made
