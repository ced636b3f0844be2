"""A persistent map from ids to values: changing it gives a new one and leaves the old one as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from rpds import HashTrieMap

Value = TypeVar("Value")


class Map(Generic[Value]):
    """rpds' hash trie under a name that can be subscripted at run time, which the snapshot's typed decoder needs.

    Every operation costs the same however many entries there are, to within a logarithm to the base 32.
    """

    __slots__ = ("_trie",)

    def __init__(self, entries: Mapping[str, Value] | HashTrieMap[str, Value] | None = None) -> None:
        self._trie: HashTrieMap[str, Value] = HashTrieMap(entries or {})

    def __len__(self) -> int:
        return len(self._trie)

    def __getitem__(self, key: str) -> Value:
        return self._trie[key]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Map) and self._trie == other._trie

    __hash__ = None  # type: ignore[assignment]  # values need not be hashable

    def __repr__(self) -> str:
        return f"Map({dict(self._trie.items())!r})"

    def get(self, key: str) -> Value | None:
        """The value at `key`; None if there is none."""
        return self._trie.get(key)

    def insert(self, key: str, value: Value) -> Map[Value]:
        """The map with `value` at `key`."""
        return self._of(self._trie.insert(key, value))

    def remove(self, key: str) -> Map[Value]:
        """The map without `key`. Raises KeyError if it is not there."""
        return self._of(self._trie.remove(key))

    def items(self) -> Iterator[tuple[str, Value]]:
        """Pairs, in no order that means anything."""
        return iter(self._trie.items())

    def values(self) -> Iterator[Value]:
        """Values, in no order that means anything."""
        return iter(self._trie.values())

    @staticmethod
    def _of(trie: HashTrieMap[str, Value]) -> Map[Value]:
        made: Map[Value] = Map.__new__(Map)
        made._trie = trie
        return made
