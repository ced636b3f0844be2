"""What daemon and worker say to each other arrives as it was said."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from events import messages
from tests.events.examples import FACTS, ORDERS


def test_every_fact_and_order_has_an_example() -> None:
    """So the round trips below leave nothing out."""
    assert {type(fact) for fact in FACTS} == set(get_args(messages.AnyFact))
    assert {type(order) for order in ORDERS} == set(get_args(messages.AnyOrder))


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: type(fact).__name__)
def test_a_fact_arrives_as_it_was_said(fact: messages.AnyFact) -> None:
    """Through JSON and back."""
    assert msgspec.json.decode(msgspec.json.encode(fact), type=messages.AnyFact) == fact


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: type(order).__name__)
def test_an_order_arrives_as_it_was_given(order: messages.AnyOrder) -> None:
    """Through JSON and back."""
    assert msgspec.json.decode(msgspec.json.encode(order), type=messages.AnyOrder) == order


def test_words_with_unknown_fields_are_refused() -> None:
    """A worker of another version is found out at its first word."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"fact":"hello","attempt":0,"pid":1,"mood":"good"}', type=messages.AnyFact)
