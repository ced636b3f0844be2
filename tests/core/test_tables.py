"""Tables become one, with exactly one handler for each type."""

from __future__ import annotations

import pytest

from core.tables import composed


def test_two_tables_become_one() -> None:
    """In any order."""
    assert composed(({int: 1}, {str: 2}), (str, int)) == {int: 1, str: 2}


@pytest.mark.parametrize(
    ("tables", "types", "says"),
    [
        (({int: 1}, {int: 2}), (int,), "two topics handle int"),
        (({int: 1},), (int, str), "no topic handles, or no union names, str"),
        (({int: 1, str: 2},), (int,), "no topic handles, or no union names, str"),
    ],
)
def test_a_type_without_exactly_one_handler_is_an_error(
    tables: tuple[dict[type, int], ...], types: tuple[type, ...], says: str
) -> None:
    """At import, so no such program starts."""
    with pytest.raises(TypeError, match=says):
        composed(tables, types)
