"""The vocabulary of the journal: complete, explained, and never ambiguous."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re

import pytest

from core import evolve
from events import kinds
from events.codec import current_version, kind_of
from events.event import Event
from events.kinds import EVENT_TYPES
from events.upcasters import ALIASES
from tests.events.examples import EVENTS


def test_every_event_class_is_part_of_anyevent() -> None:
    """A class that is not could be written and never read."""
    modules = [importlib.import_module(f"events.kinds.{each.name}") for each in pkgutil.iter_modules(kinds.__path__)]
    there = [value for module in modules for value in vars(module).values()]
    classes = {value for value in there if inspect.isclass(value) and issubclass(value, Event)}
    assert classes - {Event} == set(EVENT_TYPES)


def test_tags_are_pinned_and_unique() -> None:
    """A tag is the class name in small letters, written out, so that renaming a class changes nothing on disk."""
    tags = [kind_of(kind) for kind in EVENT_TYPES]
    assert len(set(tags)) == len(tags)
    assert not set(tags) & set(ALIASES)
    for kind in EVENT_TYPES:
        assert kind_of(kind) == re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
        assert f'tag="{kind_of(kind)}"' in inspect.getsource(kind)


def test_every_kind_has_a_version() -> None:
    """Versions count from 1."""
    assert all(current_version(kind) >= 1 for kind in EVENT_TYPES)


@pytest.mark.parametrize("kind", EVENT_TYPES, ids=lambda kind: kind.__name__)
def test_every_kind_has_an_example_a_handler_and_a_docstring(kind: type[Event]) -> None:
    """What is not explained, folded and tested is not journaled."""
    assert any(type(event) is kind for event in EVENTS)
    assert kind in evolve.EVOLVE
    assert "__doc__" in vars(kind)
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{kind.__name__}(")


def test_events_are_immutable() -> None:
    """A fact does not change."""
    with pytest.raises(AttributeError):
        kinds.JobSkipped(job="ab" * 32).job = "cd" * 32  # type: ignore[misc]
