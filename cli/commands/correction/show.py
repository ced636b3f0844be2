"""`keepstep self-correction`: the rounds, the files that followed, and why it stopped."""

from __future__ import annotations

from collections.abc import Iterator

from cli.config.schema import load_config
from cli.errors import UserError
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state, read_correction
from cli.output.terminal import ATTENTION, GOOD, Row, print_json, print_listing, print_report, say
from cli.text import printable
from core.topics.evaluation.self_correction import why_not_now
from projections.answers.self_correction import CorrectionChart, CorrectionFile, CorrectionRound

ROUNDS_SHOWN = 12
"""Rounds that are shown: the newest; --json has all."""

LINE_CHARACTERS = 300
"""Characters of an answer on the screen: about four lines of 80 columns."""


def show_correction(home: Home, number: int | None, *, json: bool) -> None:
    """Print what is known. Raises UserError for a round without answers."""
    chart = read_correction(home, number)
    if number is not None and not any(each.round == number for each in chart.rounds):
        known = f"rounds are numbered 1 to {len(chart.rounds)}" if chart.rounds else "there are no rounds yet"
        raise UserError(f"there is no round {number}", known)
    if json:
        print_json(chart)
        return
    if number is not None:
        _print_answers(chart, number)
        return
    settings = load_config(home.config, storage=home.storage).self_correction
    why = why_not_now(load_state(home)[0].state)
    if settings.kind == "off":
        why = "[self_correction] is off; to turn it on: `keepstep config set self_correction.kind=rejection`"
    print_report([Row("kind", settings.kind), *_state_rows(chart, why, settings.queue_every)])
    if chart.rounds:
        header = ["round", "step", "base", "right", "distinct", "tokens", "KL", "rows"]
        print_listing(header, [_row(each) for each in chart.rounds[-ROUNDS_SHOWN:]])
    if chart.files:
        header = ["file", "rounds", "rows", "reference", "replayed", "job"]
        print_listing(header, [_file_row(each) for each in chart.files])


def _state_rows(chart: CorrectionChart, why: str | None, queue_every: int) -> Iterator[Row]:
    stopped = chart.note is not None and chart.note.kind == "stopped"
    if why is not None:
        yield Row("waits", printable(why), ATTENTION if stopped else "")
    elif not chart.rounds:
        yield Row("", "no rounds yet: they follow while a file trains, on prompts of files that were trained before")
    if chart.note is not None and not stopped:
        what = {"put_off": "was put off", "failed": "failed", "abandoned": "ended for this job"}[chart.note.kind]
        yield Row("missing", f"the newest round {what}: {printable(chart.note.message)}", ATTENTION)
    if chart.rounds:
        since = chart.files[-1].last_round if chart.files else 0
        waiting = sum(each.rows for each in chart.rounds if each.round > since)
        yield Row("rows", f"{waiting} since the last file; {queue_every} make the next one")
    if chart.trained_s > 0 and chart.rounds:
        share = chart.spent_s / chart.trained_s
        yield Row("cost", f"{chart.spent_s:.1f} s, {share:.1%} of the training time")


def _row(each: CorrectionRound) -> list[str]:
    kl = "" if each.kl is None else f"{each.kl:.3f}"
    return [
        str(each.round),
        str(each.global_step),
        each.base or "",
        f"{each.right} of {each.answers}",
        f"{each.distinct:.2f}",
        f"{each.mean_tokens:.1f}",
        kl,
        str(each.rows),
    ]


def _file_row(each: CorrectionFile) -> list[str]:
    job = "not queued yet" if each.job is None else each.job[:12]
    rounds = f"{each.first_round}–{each.last_round}"
    return [each.name, rounds, str(each.rows), str(each.references), str(each.replayed), job]


def _print_answers(chart: CorrectionChart, number: int) -> None:
    found = next(each for each in chart.rounds if each.round == number)
    say(f"round {number} after step {found.global_step}: {found.right} of {found.answers} right ({found.verifier})")
    if not chart.answers:
        say("its answers are no longer kept here, or all of them were left out; `keepstep journal` has the record")
        return
    rows = []
    for each in chart.answers:
        text = " ".join(printable(each.text.replace("\n", " ")).split())
        shown = text if len(text) <= LINE_CHARACTERS else f"{text[: LINE_CHARACTERS - 1]}…"
        times = f"  ({each.times} times)" if each.times > 1 else ""
        rows.append(
            Row(printable(each.row), f"{'✓' if each.right else '✗'} {shown}{times}", GOOD if each.right else "")
        )
    print_report(rows)
