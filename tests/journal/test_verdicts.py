"""The table of verdicts is total and unambiguous."""

from __future__ import annotations

from itertools import product

import pytest

from journal.verdicts import CASES, Facts, Verdict, judge

EVERY = [Facts(*bits) for bits in product([False, True], repeat=6)]


@pytest.mark.parametrize("facts", EVERY, ids=lambda facts: "".join("01"[fact] for fact in facts))
def test_every_combination_of_facts_has_exactly_one_verdict(facts: Facts) -> None:
    """No two rows fit, and never none."""
    assert [case for case in CASES if case.fits(facts)] == [judge(facts)]


def test_every_row_is_reached() -> None:
    """No row is dead."""
    assert {judge(facts) for facts in EVERY} == set(CASES)


def test_proof_of_loss_is_never_torn_or_clean() -> None:
    """The promise of the whole program, as a property of the table."""
    for facts in EVERY:
        if facts.readable and (not facts.headers or facts.covered or facts.promised or facts.witnessed):
            assert judge(facts).verdict is Verdict.DAMAGED


def test_nothing_is_judged_on_a_disk_that_cannot_be_read() -> None:
    """A read error proves nothing about the bytes."""
    assert {judge(facts).verdict for facts in EVERY if not facts.readable} == {Verdict.UNREADABLE}
