"""`keepstep plot`: a metric of all steps as a chart in the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from cli.commands.common import count
from cli.errors import UserError
from cli.home.metrics_reader import MetricsReader
from cli.home.paths import Home
from cli.layout import terminal_width
from cli.output.terminal import can_print, has_colour, print_json, say

if TYPE_CHECKING:
    from projections.metrics import Chart, Metrics

Metric = Literal["loss", "lr", "norm", "tokens"]


class Shown(NamedTuple):
    """A metric that can be plotted."""

    series: str
    """Its name in the fold."""
    title: str


METRICS: Final[dict[Metric, Shown]] = {
    "loss": Shown("loss", "loss (nats per trained token)"),
    "lr": Shown("learning_rate", "learning rate"),
    "norm": Shown("grad_norm", "gradient norm"),
    "tokens": Shown("tokens_per_s", "tokens per second"),
}

HEIGHT = 16
"""Lines of the plot; with its frame and labels it fits into a terminal of 24 lines."""

LABEL_COLUMNS = 12
"""Columns for the frame and the labels of the y axis."""

WIDTH_MIN = 20

DOTS = 2
"""Braille characters have two dots side by side."""

PLAIN = str.maketrans("┌┐└┘─│", "++++-|")

SMALL = 1e-2
"""Labels have few decimals, so smaller numbers are shown as multiples of a power of ten."""


def show_plot(home: Home, metric: Metric, last: int | None, *, json: bool) -> None:
    """Print the chart of a metric, as wide as the terminal. `last`: only this many steps, counted from the newest.

    Raises UserError if the package that draws is missing, journal.errors.JournalError.
    """
    reader = MetricsReader(home)
    reader.catch_up()
    width = max(WIDTH_MIN, terminal_width() - LABEL_COLUMNS)
    chart = _chart(reader.metrics, last, DOTS * width)
    if json:
        print_json(_as_json(metric, chart))
    elif not chart.steps:
        say("no step was trained yet: add a file with `keepstep add FILE`, then `keepstep run`")
    else:
        _draw(metric, chart, width)


def _chart(metrics: Metrics, last: int | None, points: int) -> Chart:
    end = metrics.chart(points=1).last
    first = None if last is None or end is None else end - last + 1
    return metrics.chart(first, None, points)


def _as_json(metric: Metric, chart: Chart) -> dict[str, Any]:
    buckets = chart.series[METRICS[metric].series]
    return {
        "metric": metric,
        "seq": chart.seq,
        "first": chart.first,
        "last": chart.last,
        "steps_without_loss": chart.not_numbers,
        "points": [
            {"global_step": step, "at": at, "lowest": bucket.low, "highest": bucket.high, "mean": bucket.mean}
            for step, at, bucket in zip(chart.steps, chart.at, buckets, strict=True)
        ],
        "evaluations": chart.evaluations if metric == "loss" else [],
    }


def _draw(metric: Metric, chart: Chart, width: int) -> None:
    try:
        from uniplot import plot_to_string
    except ImportError as error:
        raise UserError(
            f"drawing in the terminal needs a package that is not installed: {error.name}",
            "install it: `pip install 'keepstep[plot]'`; `keepstep plot --json` prints the numbers without it",
        ) from error
    shown = METRICS[metric]
    buckets = zip(chart.steps, chart.series[shown.series], strict=True)
    lines = {"training": [(step, bucket.mean) for step, bucket in buckets if bucket.mean is not None]}
    if metric == "loss":
        lines["validation"] = [(each.global_step, each.loss) for each in chart.evaluations if each.loss is not None]
    lines = {name: points for name, points in lines.items() if points}
    if lines:
        scale, unit = _unit([value for points in lines.values() for _, value in points])
        ascii_only = not can_print("┌│⣿")
        text = plot_to_string(
            [[value * scale for _, value in points] for points in lines.values()],
            [[step for step, _ in points] for points in lines.values()],
            title=f"{shown.title}{unit}",
            legend_labels=[*lines] if len(lines) > 1 else None,
            lines=True,
            width=width,
            height=HEIGHT,
            color=["blue", "green"][: len(lines)] if has_colour() else False,
            character_set="ascii" if ascii_only else "braille",
            x_gridlines=[],
            y_gridlines=[],
        )
        print("\n".join(line.rstrip() for line in (text.translate(PLAIN) if ascii_only else text).splitlines()))
    size = _steps_a_point(chart)
    steps = f"steps {max(chart.first or 1, chart.steps[0] - size + 1):,} to {chart.steps[-1]:,}"
    say(steps if size == 1 else f"{steps}; a point is the mean of up to {size:,} steps")
    if chart.not_numbers:
        say(f"{count(chart.not_numbers, 'step')} without a loss: NaN or infinite, so the batch was skipped")
    if not all(each.loss is not None for each in chart.evaluations) and metric == "loss":
        say("a validation loss is NaN or infinite and is not drawn")


def _steps_a_point(chart: Chart) -> int:
    return max((after - before for before, after in zip(chart.steps, chart.steps[1:], strict=False)), default=1)


def _unit(values: list[float]) -> tuple[float, str]:
    """The factor for the values, and its text for the title."""
    largest = max(map(abs, values))
    if largest == 0 or largest >= SMALL:
        return 1.0, ""
    power = math.floor(math.log10(largest))
    return 10.0**-power, f", in 1e{power}"
