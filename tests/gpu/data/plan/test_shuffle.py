"""Random keys are unique, pinned by golden values, and invertible."""

from __future__ import annotations

import numpy as np
import pytest

from gpu.data.plan.shuffle import BLOCK, random_keys, shuffle_rows


def test_the_numbers_are_those_of_splitmix64() -> None:
    """The authors' own program gives these numbers for the seeds 0 and 1234567."""
    assert hex(random_keys(0, 0, 1)[0]) == "0xe220a8397b1dcdaf"
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert random_keys(1234567, 0, 4).tolist() == published


def test_random_keys_do_not_depend_on_where_the_count_begins() -> None:
    assert random_keys(9, 5, 10).tolist() == random_keys(9, 0, 15)[5:].tolist()


@pytest.mark.parametrize("count", [0, 1, 7, BLOCK + 3])
@pytest.mark.parametrize("start", [0, 5, 2**64 - 1])
def test_rows_are_in_the_order_of_their_random_keys(start: int, count: int) -> None:
    """The keys are inverted to rows, without a second array."""
    assert np.array_equal(shuffle_rows(start, count), random_keys(start, 0, count).argsort(kind="stable"))


def test_more_rows_than_can_be_numbered_are_refused() -> None:
    with pytest.raises(ValueError, match="more than a plan can hold"):
        shuffle_rows(0, 2**32 + 1)
