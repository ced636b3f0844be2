"""Metrics by step: what charts are drawn from."""

from __future__ import annotations

import pytest

from events import kinds
from events.codec import Record
from events.event import Event
from projections.metrics import POINTS_MAX, Bucket, Metrics
from tests.harness.metrics_home import evaluation

AT = "2026-11-22T03:00:00.000000Z"
AT_UNIX = 1_795_316_400.0


def record(seq: int, event: Event) -> Record:
    return Record(seq=seq, at=AT, durable=seq, prev="", event=event, crc="")


def step(number: int, loss: float | str, **changes: float) -> kinds.StepReached:
    values = {"grad_norm": 1.0, "learning_rate": 1e-4, "seconds": 2.0, **changes}
    return kinds.StepReached(
        job="a", attempt=1, global_step=number, step=number, epoch=1, loss=loss, tokens=100, **values
    )


def folded(*events: Event) -> Metrics:
    metrics = Metrics()
    for seq, event in enumerate(events, 1):
        metrics.observe(record(seq, event))
    return metrics


def losses(metrics: Metrics) -> list[float | None]:
    return [bucket.mean for bucket in metrics.chart().series["loss"]]


def test_each_step_is_a_point() -> None:
    chart = folded(step(1, 3.0), step(2, 2.0)).chart()
    assert (chart.seq, chart.first, chart.last, chart.steps) == (2, 1, 2, [1, 2])
    assert chart.at == [AT_UNIX, AT_UNIX]
    assert chart.series["loss"] == [Bucket(3.0, 3.0, 3.0), Bucket(2.0, 2.0, 2.0)]
    assert chart.series["tokens_per_s"][0].mean == 50.0


def test_no_step_is_an_empty_chart() -> None:
    chart = Metrics().chart()
    assert (chart.first, chart.last, chart.steps, chart.series["loss"]) == (None, None, [], [])


def test_a_bucket_holds_lowest_highest_and_mean() -> None:
    chart = folded(*(step(number, float(number)) for number in range(1, 11))).chart(points=3)
    assert chart.steps == [4, 8, 10]
    assert chart.series["loss"] == [Bucket(1.0, 4.0, 2.5), Bucket(5.0, 8.0, 6.5), Bucket(9.0, 10.0, 9.5)]


def test_a_range_includes_both_ends() -> None:
    metrics = folded(*(step(number, float(number)) for number in range(1, 11)))
    assert metrics.chart(3, 5).steps == [3, 4, 5]
    assert metrics.chart(first=9).steps == [9, 10]
    assert metrics.chart(11, 20).steps == []


@pytest.mark.parametrize("points", [-5, 0, 1])
def test_there_is_at_least_one_point(points: int) -> None:
    assert folded(step(1, 1.0), step(2, 3.0)).chart(points=points).series["loss"] == [Bucket(1.0, 3.0, 2.0)]


def test_the_number_of_points_is_limited() -> None:
    metrics = folded(*(step(number, 1.0) for number in range(1, POINTS_MAX * 2)))
    assert len(metrics.chart(points=10**9).steps) <= POINTS_MAX


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_a_loss_that_is_no_number_is_a_gap(word: str) -> None:
    metrics = folded(step(1, 1.0), step(2, word), step(3, 3.0))
    assert losses(metrics) == [1.0, None, 3.0]
    chart = metrics.chart(points=1)
    assert chart.not_numbers == 1
    assert chart.series["loss"] == [Bucket(1.0, 3.0, 2.0)], "the other steps of its bucket count"
    assert metrics.chart(1, 1).not_numbers == 0


def test_a_step_that_runs_again_replaces_what_followed() -> None:
    metrics = folded(step(1, 1.0), step(2, 9.0), step(3, 9.0), evaluation(3, 9.0), step(2, 2.0))
    assert losses(metrics) == [1.0, 2.0]
    assert metrics.chart().evaluations == []


def test_a_gap_is_forgotten_with_its_step() -> None:
    metrics = folded(step(1, 1.0), step(2, "NaN"), step(2, 2.0))
    assert losses(metrics) == [1.0, 2.0]
    assert metrics.chart().not_numbers == 0


def test_evaluations_have_their_own_points() -> None:
    metrics = folded(evaluation(0, 4.0), step(1, 1.0), step(2, 1.0), evaluation(2, "NaN"))
    assert [(each.global_step, each.loss) for each in metrics.chart().evaluations] == [(0, 4.0), (2, None)]
    assert [each.global_step for each in metrics.chart(first=1).evaluations] == [2]


@pytest.mark.parametrize(("first", "last"), [(1, 1_000), (2, 999), (64, 65), (65, 128), (63, 129), (500, 500)])
def test_a_bucket_of_blocks_equals_one_of_single_steps(first: int, last: int) -> None:
    """Sums of blocks are kept, so that a million steps are not read for each chart."""
    values = [float(number * 7 % 101) for number in range(1, 1_001)]
    metrics = folded(*(step(number, value) for number, value in enumerate(values, 1)))
    (bucket,) = metrics.chart(first, last, points=1).series["loss"]
    wanted = values[first - 1 : last]
    assert bucket == Bucket(min(wanted), max(wanted), sum(wanted) / len(wanted))


def test_blocks_are_forgotten_with_their_steps() -> None:
    metrics = folded(*(step(number, 9.0) for number in range(1, 200)), step(100, 1.0), step(101, 2.0))
    assert metrics.chart(100, points=1).series["loss"] == [Bucket(1.0, 2.0, 1.5)]
    assert metrics.chart(points=1).series["loss"] == [Bucket(1.0, 9.0, (99 * 9.0 + 3.0) / 101)]


def test_points_after_a_record_begin_with_the_step_that_ran_again() -> None:
    """Whatever another tool has from this step on is replaced."""
    metrics = folded(step(1, 1.0), step(2, 9.0), step(3, 9.0), evaluation(3, 9.0), step(2, "NaN"), step(3, 3.0))
    assert [(point.seq, point.global_step) for point in metrics.points("train", after=4)] == [(5, 2), (6, 3)]
    assert [point.values.get("loss") for point in metrics.points("train")] == [1.0, None, 3.0]
    assert list(metrics.points("validation")) == []


def test_points_of_evaluations_have_loss_and_gap() -> None:
    metrics = folded(step(1, 1.0), evaluation(1, 1.5), step(2, 1.0), evaluation(2, "NaN"))
    assert [point.values for point in metrics.points("validation")] == [{"loss": 1.5, "gap": 0.5}, {}]
    assert [point.global_step for point in metrics.points("validation", after=2)] == [2]


def test_many_records_at_once_give_the_same_as_one_at_a_time() -> None:
    events = [step(number % 90 + number // 90 * 70 + 1, "NaN" if number % 7 == 0 else 1.0) for number in range(300)]
    together = Metrics()
    together.observe(*(record(seq, event) for seq, event in enumerate(events, 1)))
    assert together.chart() == folded(*events).chart()
    assert list(together.points("train")) == list(folded(*events).points("train"))
