"""The persistent map: a changed one is new, the old one stays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.structures.maps import Map


class Table:
    """A ground."""

    def __init__(self, entries: dict[str, int]) -> None:
        self.entries = entries

    def __len__(self) -> int:
        return len(self.entries)

    def get(self, key: str) -> int | None:
        return self.entries.get(key)

    def items(self) -> Iterator[tuple[str, int]]:
        return iter(self.entries.items())


def test_a_change_leaves_the_old_map_as_it_was() -> None:
    """Inserting, replacing and removing give new maps."""
    empty: Map[int] = Map()
    one = empty.insert("a", 1)
    two = one.insert("a", 2)
    none = two.remove("a")
    assert [each.get("a") for each in (empty, one, two, none)] == [None, 1, 2, None]
    assert [len(each) for each in (empty, one, two, none)] == [0, 1, 1, 0]


def test_maps_with_the_same_entries_are_equal() -> None:
    """In whatever order they came; and no map is equal to something else."""
    assert Map({"a": 1, "b": 2}) == Map({"b": 2}).insert("a", 1)
    assert Map({"a": 1}) != Map({"a": 2})
    assert Map({"a": 1}) != {"a": 1}


def test_a_missing_key_is_an_error_where_it_must_be_there() -> None:
    """`get` gives None; indexing and removing raise."""
    with pytest.raises(KeyError):
        Map()["a"]
    with pytest.raises(KeyError):
        Map().remove("a")


KEYS = st.sampled_from("abcdef")


@settings(max_examples=200, deadline=None, database=None)
@given(st.dictionaries(KEYS, st.integers(1, 9)), st.lists(st.tuples(KEYS, st.integers(0, 9)), max_size=30))
def test_a_map_over_a_ground_is_the_map_of_all(ground: dict[str, int], changes: list[tuple[str, int]]) -> None:
    """Whatever is inserted, replaced, removed and inserted again; 0 stands for removing. The ground stays as it is."""
    before = dict(ground)
    lying, plain = Map.over(Table(ground)), Map(ground)
    for key, value in changes:
        if value:
            lying, plain = lying.insert(key, value), plain.insert(key, value)
        elif plain.get(key) is not None:
            lying, plain = lying.remove(key), plain.remove(key)
        else:
            with pytest.raises(KeyError):
                lying.remove(key)
        assert lying == plain
        assert plain == lying
        assert len(lying) == len(plain)
        assert lying.get(key) == plain.get(key)
        assert sorted(lying.values()) == sorted(plain.values())
    assert ground == before
