"""What keepstep does by itself, as tables of cases."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from core.policies import (
    JITTER,
    LONGEST_WAIT_S,
    MARGIN_BYTES,
    checkpoints_to_prune,
    environment_changes,
    is_due,
    meaning_conflict,
    retry_wait_s,
    room_wanted,
)
from core.state import State
from core.versions import Checkpoint, Meaning
from events.settings import FullSettings, JobSettings, LoraSettings, ModelSettings


def checkpoint(step: int) -> Checkpoint:
    """A checkpoint at this step."""
    return Checkpoint(
        id=f"{step}", job="", attempt=1, global_step=step, step=step, parent=None, size_bytes=1, manifest_sha256=""
    )


@pytest.mark.parametrize(("failures", "wait_s"), [(1, 2.0), (2, 4.0), (3, 8.0), (4, 16.0), (5, None), (99, None)])
def test_waits_double_and_then_end(failures: int, wait_s: float | None) -> None:
    """The n-th failure in a row waits about that long; the fifth is the last."""
    waits = [retry_wait_s(failures, attempt) for attempt in range(1, 500)]
    if wait_s is None:
        assert set(waits) == {None}
        return
    known = [wait for wait in waits if wait is not None]
    assert len(known) == len(waits)
    assert (1 - JITTER) * wait_s <= min(known) < 0.8 * wait_s
    assert 1.2 * wait_s < max(known) <= (1 + JITTER) * wait_s
    assert max(known) <= LONGEST_WAIT_S


def test_a_wait_follows_from_the_attempt() -> None:
    """The same history gives the same waits; another attempt, another one."""
    assert retry_wait_s(2, 7) == retry_wait_s(2, 7)
    assert len({retry_wait_s(2, attempt) for attempt in range(100)}) > 90


@pytest.mark.parametrize(
    ("retry_at", "due"),
    [
        (None, True),
        (99.0, True),
        (100.0, True),
        (100.5, False),
        (100.0 + LONGEST_WAIT_S, False),
        (100.1 + LONGEST_WAIT_S, True),
    ],
)
def test_a_wait_ends_even_if_the_clock_was_set_back(retry_at: float | None, due: bool) -> None:
    """At 100 s: nothing that keepstep asked for lies further ahead than its longest wait."""
    assert is_due(retry_at, 100.0) is due


@pytest.mark.parametrize(
    ("steps", "keep", "pruned"),
    [
        ([], 2, []),
        ([1], 1, []),
        ([1, 2], 1, [1]),
        ([1, 2, 3, 4], 2, [1, 2]),
        ([1, 2], 5, []),
        ([1, 2], 0, [1]),
    ],
)
def test_the_newest_stay_and_the_head_always(steps: list[int], keep: int, pruned: list[int]) -> None:
    """Oldest first; whatever `keep` says, the newest is never given up."""
    assert [each.global_step for each in checkpoints_to_prune([checkpoint(step) for step in steps], keep)] == pruned


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [((), MARGIN_BYTES), ((10,), MARGIN_BYTES + 20), ((10, 70, 30), MARGIN_BYTES + 140)],
)
def test_room_is_wanted_for_twice_the_largest_checkpoint_that_is_kept(sizes: tuple[int, ...], wanted: int) -> None:
    """And a margin for all the rest; before the first commit, for that alone."""
    kept = tuple(replace(checkpoint(step), size_bytes=size) for step, size in enumerate(sizes, 1))
    assert room_wanted(State(checkpoints=kept)) == wanted


TINY = JobSettings(model=ModelSettings(path="tiny"), method=LoraSettings(r=8))


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (TINY, None),
        (replace(TINY, model=ModelSettings(path="tiny", trust_remote_code=True)), None),
        (replace(TINY, model=ModelSettings(path="big")), "model.path is big, what was learned so far has tiny"),
        (replace(TINY, method=LoraSettings(r=16)), "method.r is 16, what was learned so far has 8"),
        (replace(TINY, method=FullSettings()), "method.kind is full, what was learned so far has lora"),
        (
            replace(TINY, method=LoraSettings(r=8, target_modules=("q", "v"))),
            "method.target_modules is q, v, what was learned so far has all-linear",
        ),
    ],
)
def test_what_was_learned_goes_on_only_under_its_own_model_and_method(wanted: JobSettings, says: str | None) -> None:
    """Weights mean nothing under another base; code that comes with a model does not change what they mean."""
    assert meaning_conflict(Meaning(TINY.model, TINY.method), wanted) == says


def test_two_differences_are_both_named() -> None:
    """A person mends all of it in one go."""
    wanted = replace(TINY, model=ModelSettings(path="big"), method=FullSettings())
    assert str(meaning_conflict(Meaning(TINY.model, TINY.method), wanted)).count(";") == 1


def test_before_anything_is_learned_nothing_conflicts() -> None:
    """A new home takes any settings."""
    assert meaning_conflict(None, TINY) is None


@pytest.mark.parametrize(
    ("before", "now", "changes"),
    [
        ({}, {"threads": "2"}, ()),
        ({"threads": "2"}, {"threads": "2"}, ()),
        ({"threads": "2"}, {"threads": "4"}, ("threads: 2 → 4",)),
        ({"b": "1", "a": "1"}, {"c": "1", "a": "1"}, ("b: 1 → none", "c: none → 1")),
    ],
)
def test_a_changed_environment_is_said_in_words(
    before: dict[str, str], now: dict[str, str], changes: tuple[str, ...]
) -> None:
    """In the order of the names; the first training of all has nothing to compare with."""
    assert environment_changes(before, now) == changes
