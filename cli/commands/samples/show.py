"""`keepstep samples`: the answers to each prompt by step, and the shares of right answers and of trains of thought."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from cli.errors import UserError
from cli.home.paths import Home
from cli.home.snapshot_reader import read_samples
from cli.output.terminal import ATTENTION, GOOD, Row, print_json, print_report, say
from cli.text import printable, printable_lines
from projections.answers.samples import PromptHistory, SampleRound, SamplesChart, StepAnswer

PROMPTS_SHOWN, ANSWERS_SHOWN = 10, 8
"""Prompts, and answers of each, that are shown without --all."""

LINE_CHARACTERS = 300
"""Characters of a text without --step: about four lines of 80 columns."""


def show_samples(home: Home, step: int | None, prompt: str | None, *, everything: bool, json: bool) -> None:
    """Print the samples. Raises UserError for a step or a prompt without any."""
    chart = read_samples(home, prompt, step)
    if step is not None and not chart.rounds:
        raise UserError(f"there are no samples after step {step}", _steps_text(read_samples(home).rounds))
    if prompt is not None and not chart.prompts:
        raise UserError(f"no prompt has an id that begins with {prompt}", "`keepstep samples` shows the ids")
    if json:
        print_json(chart)
        return
    if not chart.rounds:
        say(f"no samples yet{_note_text(chart)}")
        if chart.note is None:
            say(
                "they follow every few steps of a job that has held-out rows ([data] validation, holdout), or the "
                "prompts of a file: `keepstep config set samples.prompts=FILE`; `keepstep samples now` asks for some"
            )
        return
    shown = chart.prompts if everything else chart.prompts[:PROMPTS_SHOWN]
    for each in shown:
        print_report([*(_whole_rows(each) if step is not None else _rows(each, everything=everything))])
        say()
    if len(shown) < len(chart.prompts):
        say(f"… and {len(chart.prompts) - len(shown)} more prompts; --all shows them")
    print_report([*_summary(chart)])


def _rows(history: PromptHistory, *, everything: bool) -> Iterator[Row]:
    """The prompt and its answers by step; steps with the same answer are one row."""
    yield Row("prompt", f"{_line(history.prompt)}  ({history.prompt_id[:6]})", "bold")
    yield Row("expected", _line(history.expected))
    runs = [list(run) for _, run in groupby(history.answers, key=lambda each: (each.answer, each.match))]
    if not everything and len(runs) > ANSWERS_SHOWN:
        yield Row("…", f"{len(runs) - ANSWERS_SHOWN} earlier answers; --all shows them")
        runs = runs[-ANSWERS_SHOWN:]
    for run in runs:
        first, last = run[0].global_step, run[-1].global_step
        steps = f"step {first}" if first == last else f"{first}–{last}"
        yield Row(steps, f"{_mark(run[0])} {_line(run[0].answer) or '(nothing)'}", _style(run[0]))


def _whole_rows(history: PromptHistory) -> Iterator[Row]:
    """The prompt and its whole answer after one step."""
    (answer,) = history.answers
    ends = {"length": "cut at max_new_tokens", "context": "cut: the context of the model is full"}
    yield Row("prompt", f"{printable_lines(history.prompt)}  ({history.prompt_id[:6]})", "bold")
    yield Row("expected", printable_lines(history.expected))
    yield Row("answer", f"{_mark(answer)} {printable_lines(answer.answer) or '(nothing)'}", _style(answer))
    yield Row("", ", ".join(filter(None, (f"{answer.tokens} tokens", ends.get(answer.finish)))))


def _summary(chart: SamplesChart) -> Iterator[Row]:
    first, last = chart.rounds[0], chart.rounds[-1]
    how = {"contains": "contains the expected one", "numeric": "last number", "regex": "pattern"}
    matched = how.get(last.match, last.match)
    yield Row("as expected", _change(first, last, "matched") + f"  ({matched})")
    if last.think_tag:
        yield Row(f"with {last.think_tag}", _change(first, last, "thinking"))
    share = f", {chart.spent_s / chart.trained_s:.1%} of the training time" if chart.trained_s > 0 else ""
    yield Row("cost", f"{chart.spent_s:.1f} s{share}")
    if chart.note is not None:
        yield Row("missing", f"newer ones{_note_text(chart)}", ATTENTION)


def _change(first: SampleRound, last: SampleRound, name: str) -> str:
    now = f"{getattr(last, name)} of {last.answers} after step {last.global_step}"
    before = f"{getattr(first, name)} of {first.answers} after step {first.global_step} → " if first != last else ""
    return before + now


def _note_text(chart: SamplesChart) -> str:
    note = chart.note
    if note is None:
        return ""
    what = {"put_off": "were put off", "failed": "failed", "abandoned": "ended for this job"}[note.kind]
    return f" {what} after step {note.global_step}: {printable(note.message)}"


def _steps_text(rounds: Sequence[SampleRound]) -> str:
    if not rounds:
        return "there are none in this home yet; `keepstep samples now` asks a running job for some"
    steps = [str(each.global_step) for each in rounds]
    shown = ", ".join(steps if len(steps) <= 12 else ["…", *steps[-12:]])
    return f"there are some after the steps {shown}"


def _mark(answer: StepAnswer) -> str:
    return "✓" if answer.match else "✗"


def _style(answer: StepAnswer) -> str:
    return GOOD if answer.match else ""


def _line(text: str) -> str:
    one = " ".join(printable(text.replace("\n", " ")).split())
    return one if len(one) <= LINE_CHARACTERS else f"{one[: LINE_CHARACTERS - 1]}…"
