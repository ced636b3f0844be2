"""Samples by step: the answers to each prompt, and what is forgotten."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from events import kinds
from events.codec import Record
from events.kinds import AnyEvent, SamplesAbandoned, SamplesFailed, SamplesGenerated, SamplesPutOff
from events.samples import SampleAnswer
from projections.answers import samples as samples_module
from projections.answers.samples import SampleHistory
from tests.events.examples import EVENTS

JOB = "a" * 64
STEP = next(event for event in EVENTS if isinstance(event, kinds.StepReached))
MOVED = next(event for event in EVENTS if isinstance(event, kinds.HeadMoved))


def answer(prompt: str, text: str, *, match: bool = False, thinks: bool = False) -> SampleAnswer:
    return SampleAnswer(
        prompt_id=prompt * 12,
        prompt=f"{prompt}?",
        expected="e",
        answer=text,
        match=match,
        thinks=thinks,
        tokens=3,
        finish="end",
    )


def round_at(step: int, *answers: SampleAnswer) -> SamplesGenerated:
    return SamplesGenerated(
        job=JOB,
        attempt=1,
        global_step=step,
        step=step,
        asked=False,
        answers=answers or (answer("a", f"after {step}"),),
        match="exact",
        think_tag="<think>",
        temperature=0.0,
        seed=1,
        tokens=3,
        seconds=0.5,
    )


def history(*events: AnyEvent, step: int | None = None) -> SampleHistory:
    made = SampleHistory(step)
    for seq, event in enumerate(events, start=1):
        made.observe(Record(seq=seq, at="2026-11-22T03:00:00Z", durable=0, prev="", event=event, crc=""))
    return made


def test_the_answers_to_a_prompt_stand_together_by_step() -> None:
    """The prompts of the newest round come first, in its order."""
    chart = history(
        round_at(2, answer("a", "x"), answer("b", "y", thinks=True)),
        round_at(4, answer("b", "z", match=True), answer("c", "w")),
    ).chart()
    assert [(each.prompt, [(one.global_step, one.answer) for one in each.answers]) for each in chart.prompts] == [
        ("b?", [(2, "y"), (4, "z")]),
        ("c?", [(4, "w")]),
        ("a?", [(2, "x")]),
    ]
    assert [(each.global_step, each.answers, each.matched, each.thinking) for each in chart.rounds] == [
        (2, 2, 0, 1),
        (4, 2, 1, 0),
    ]


def test_one_prompt_and_one_step_can_be_chosen() -> None:
    found = history(round_at(2, answer("a", "x"), answer("b", "y")), round_at(4))
    assert [each.prompt for each in found.chart(prompt_id="bb").prompts] == ["b?"]
    assert [each.global_step for each in found.chart(step=2).rounds] == [2]
    assert [each.answers[0].answer for each in found.chart(step=2).prompts] == ["x", "y"]
    assert found.chart(step=3).rounds == []


def test_costs_are_added_up() -> None:
    """Failed rounds cost too."""
    failed = SamplesFailed(
        job=JOB, attempt=1, global_step=3, step=3, asked=False, failure="code", message="m", seconds=0.25
    )
    chart = history(replace(STEP, seconds=2.0), round_at(2), failed).chart()
    assert (chart.spent_s, chart.trained_s) == (0.75, 2.0)
    assert chart.note is not None
    assert (chart.note.kind, chart.note.message) == ("failed", "m")


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (
            SamplesPutOff(
                job=JOB, attempt=1, global_step=3, step=3, round_s=9.0, trained_s=1.0, cost_max=0.01, next_step=None
            ),
            "put_off",
        ),
        (SamplesAbandoned(job=JOB, attempt=1, failure="hang", message="m"), "abandoned"),
    ],
)
def test_a_note_says_why_newer_ones_are_missing_until_there_are_some(event: AnyEvent, kind: str) -> None:
    note = history(round_at(2), event).chart().note
    assert note is not None
    assert note.kind == kind
    assert history(round_at(2), event, round_at(4)).chart().note is None


def test_a_head_that_moves_back_forgets_what_was_after_it() -> None:
    """To a checkpoint, a version, or the origin; and a round of a step that was sampled before replaces it."""
    commit = next(event for event in EVENTS if isinstance(event, kinds.CheckpointCommitted))
    version = next(event for event in EVENTS if isinstance(event, kinds.VersionPublished))
    rounds = (round_at(2), round_at(4), replace(commit, global_step=4), version, round_at(6))

    def steps(*moves: AnyEvent) -> list[int]:
        return [each.global_step for each in history(*rounds, *moves).chart().rounds]

    nowhere = {"version": None, "checkpoint": None, "backup": None}
    assert steps(replace(MOVED, **nowhere)) == []
    assert steps(replace(MOVED, **{**nowhere, "version": version.version})) == [2, 4]
    assert steps(replace(MOVED, **{**nowhere, "checkpoint": "step-00000002-attempt-0001"})) == [2]
    assert steps(round_at(4)) == [2, 4]


def test_texts_of_old_rounds_are_forgotten_and_their_figures_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless a step was asked for."""
    monkeypatch.setattr(samples_module, "ROUNDS_WITH_TEXTS", 2)
    rounds = [round_at(step) for step in (2, 4, 6, 8)]
    chart = history(*rounds).chart()
    assert [each.global_step for each in chart.rounds] == [2, 4, 6, 8]
    assert [each.global_step for each in chart.prompts[0].answers] == [6, 8]
    chosen = history(*rounds, step=4).chart(step=4)
    assert [each.answers[0].answer for each in chosen.prompts] == ["after 4"]
