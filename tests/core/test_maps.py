"""The persistent map: a changed one is new, the old one stays."""

from __future__ import annotations

import pytest

from core.maps import Map


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
