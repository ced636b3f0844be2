"""The soak: its rules can fail, and a short one passes. (An hour of it: `make soak`.)"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from events import kinds
from events.values import Failure
from tests.drills.soak.__main__ import soak
from tests.drills.soak.course import ROUNDS, SPARED, Window, unexplained
from tests.drills.soak.examples import Job, ReplayRange, account
from tests.drills.soak.faults import FAULTS, Fault
from tests.drills.soak.leaks import BREATH_BYTES, Judged, Sample, judge, judged
from tests.drills.soak.page import BEGIN, END, PAGE, write
from tests.drills.soak.weights import MARKS

MIB = 2**20
SEED = int(os.environ.get("SEED", "7"))

# -- leaks ----------------------------------------------------------------------------------------------------------


def life(seconds: int, rss_bytes: float = 0.0, descriptors: float = 0.0) -> Judged:
    """Of a process that begins with 100 MiB and 20 descriptors, warms up in a moment, and grows by that much in each
    minute."""
    samples = [
        Sample(
            float(at), int(100 * MIB * min(1.0, 0.5 + at / 10) + rss_bytes * at / 60), int(20 + descriptors * at / 60)
        )
        for at in range(0, seconds, 2)
    ]
    found = judge("worker", 7, samples)
    assert found is not None
    return found


def test_a_process_that_is_flat_after_its_start_is_flat() -> None:
    """What a process takes when it warms up is no leak."""
    assert life(600).holds


def test_memory_that_grows_all_the_time_is_a_leak() -> None:
    """By more than caches breathe, between the second quarter and the last."""
    assert not life(600, rss_bytes=2 * MIB).holds
    assert life(600, rss_bytes=0.5 * MIB).holds


def test_a_descriptor_each_few_minutes_is_a_leak() -> None:
    """Three more from one quarter to the other are too many."""
    assert not life(600, descriptors=0.6).holds
    assert not life(600, descriptors=0.6).descriptors.holds
    assert life(600, descriptors=0.6).memory.holds


def test_a_single_peak_is_no_leak_and_a_step_up_that_stays_is_one() -> None:
    """Medians: what a moment shows does not count, what stays does."""
    flat = [Sample(float(at), 100 * MIB, 20) for at in range(400)]
    peak = [each._replace(rss_bytes=900 * MIB, descriptors=99) if each.at == 390 else each for each in flat]
    step = [each._replace(rss_bytes=100 * MIB + 2 * BREATH_BYTES) if each.at > 290 else each for each in flat]
    assert (found := judge("daemon", 7, peak)) is not None
    assert found.holds
    assert (found := judge("daemon", 7, step)) is not None
    assert not found.holds


def test_a_life_that_says_nothing_is_not_judged_unless_there_is_none_longer() -> None:
    """Short ones do not hide after long ones, nor fail for their warming up."""
    long = [Sample(float(at), MIB, 20) for at in range(200)]
    short = [Sample(float(at), MIB * at, 20) for at in range(60)]
    assert [each.pid for each in judged({("worker", 1): long, ("worker", 2): short})] == [1]
    assert [each.pid for each in judged({("worker", 2): short, ("worker", 3): short[:20]})] == [2]
    assert judged({("worker", 4): short[:1]}) == []


# -- examples -------------------------------------------------------------------------------------------------------

PLANNED = {1: (1, 4), 2: (2, 3), 3: (2, 4)}
"""Three lines in two epochs of two steps."""


def problems(*replay_ranges: tuple[int, int, Sequence[int]], skipped: bool = False) -> list[str]:
    made = [ReplayRange(after, until, frozenset(aside)) for after, until, aside in replay_ranges]
    return account([Job("a", 2, 4, skipped, made, PLANNED)]).wrong


def test_every_example_once_in_each_epoch_is_right() -> None:
    """However many parts it was trained in."""
    assert problems((0, 4, [])) == []
    assert problems((0, 1, []), (1, 3, []), (3, 4, [])) == []
    assert account([Job("a", 2, 4, False, [ReplayRange(0, 4, frozenset())], PLANNED)])[:4] == (1, 3, 6, 0)


def test_an_example_that_was_trained_twice_is_found() -> None:
    """A stretch that reached the head once more than it should."""
    assert problems((0, 2, []), (1, 4, [])) == [
        "a, line 2: trained 3 times, skipped 0, to be 2 in all",
        "a, line 3: trained 3 times, skipped 0, to be 2 in all",
    ]


def test_an_example_that_was_left_out_is_found() -> None:
    """A step that never reached the head, in the middle or in the end."""
    assert problems((0, 2, []), (3, 4, [])) == ["a, line 2: trained 1 times, skipped 0, to be 2 in all"]
    assert problems((0, 3, []))[0] == "a: 3 of 4 steps reached the head"
    assert problems() == ["a: 0 of 4 steps reached the head"] + [
        f"a, line {line}: trained 0 times, skipped 0, to be 2 in all" for line in PLANNED
    ]


def test_what_was_skipped_is_named_and_not_counted_as_trained() -> None:
    """It was come by, and changed nothing."""
    job = Job("a", 2, 4, False, [ReplayRange(0, 4, frozenset({2}))], PLANNED)
    assert account([job]) == (1, 3, 4, 2, [])


def test_of_a_file_that_was_skipped_the_steps_before_count() -> None:
    """Each of them once, like those of any other."""
    assert problems((0, 2, []), skipped=True) == []
    assert problems((0, 2, []), (1, 2, []), skipped=True) != []


def test_a_line_that_the_plan_does_not_have_is_found() -> None:
    """It was accepted, so it is to be trained."""
    job = Job("a", 2, 4, False, [ReplayRange(0, 4, frozenset())], {1: (1, 4), 2: ()})
    assert account([job]).wrong == ["a, line 2: trained 0 times, skipped 0, to be 2 in all"]


# -- faults ---------------------------------------------------------------------------------------------------------


def failed(failure: Failure) -> kinds.AttemptFailed:
    return kinds.AttemptFailed(job="a", attempt=1, failure=failure, message="so it was", retry_at=None)


def test_a_failure_that_no_fault_can_cause_is_found() -> None:
    """What was done last, and what was done before that, may be the reason; nothing else."""
    by_name = {fault.name: fault for fault in FAULTS}
    hang, death, pause = (
        by_name[name] for name in ("worker stuck in a step", "worker killed by SIGKILL", "pause, resume")
    )
    assert unexplained([failed("hang")], [Window(0, hang)]) == []
    assert unexplained([failed("killed")], [Window(0, hang)]) == ["killed after worker stuck in a step: so it was"]
    assert unexplained([failed("hang")], [Window(0, hang), Window(0, death)]) == []
    assert len(unexplained([failed("hang")], [Window(0, hang), Window(0, death), Window(0, pause)])) == 1
    assert len(unexplained([failed("hang")], [])) == 1


def test_in_every_part_of_a_round_there_is_something_to_do() -> None:
    """Before the half too, when no step may come out otherwise."""
    for _, spared in SPARED:
        assert len([fault for fault in FAULTS if fault.costs not in spared and not fault.marks]) >= 8
    assert SPARED[-1][0] == 1.0
    assert ROUNDS > 1
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_what_changes_a_step_is_marked() -> None:
    """Else a calm home would be held against what it cannot come to."""
    changing: list[Fault] = [fault for fault in FAULTS if set(fault.ends_with) & {*MARKS, kinds.JobSkipped}]
    assert changing
    assert all(fault.marks for fault in changing)


# -- the whole ------------------------------------------------------------------------------------------------------


def test_the_page_keeps_everything_but_what_stands_between_the_marks(tmp_path: Path) -> None:
    """Written again and again."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}old\n{END}\nbehind\n", encoding="utf-8")
    for text in ("new\n", "newer\n"):
        write(text, page)
        assert page.read_text(encoding="utf-8") == f"before\n{BEGIN}{text}{END}\nbehind\n"
    assert PAGE.read_text(encoding="utf-8").count(BEGIN) == 1


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_minutes_of_faults_lose_nothing_and_leak_nothing(tmp_path: Path) -> None:
    """The real daemon, the real worker; every example, every bit, nothing that grows."""
    course, verdict = soak(tmp_path, 2.0, SEED)
    assert verdict.wrong == []
    assert course.times.total() >= 3  # a worker that hangs costs most of a minute
    assert verdict.account.examples > 50
