"""The view of self-correction: rounds, files, and why it stopped."""

from __future__ import annotations

from typing import Any

from events import kinds
from events.codec import Record
from events.kinds import AnyEvent
from events.self_correction import SelfCorrectionSettings
from projections.answers.self_correction import ROUNDS_WITH_ANSWERS, CorrectionChart, CorrectionHistory
from tests.events.examples import CORRECTED, JOB

FILE = kinds.FileEnqueued(job="cd" * 32, name="notes.jsonl", size_bytes=1, priority="normal", retrain=False)
STARTED = kinds.SelfCorrectionFileStarted(
    number=1,
    name="self-correction-0001.jsonl",
    first_round=1,
    last_round=2,
    base=None,
    settings=SelfCorrectionSettings(),
    replay=(),
)
QUEUED = kinds.SelfCorrectionFileQueued(number=1, job="ef" * 32, name=STARTED.name, rows=6, references=3, replayed=3)


def answered(number: int, **changes: Any) -> kinds.SelfCorrectionAnswered:
    fields = {**CORRECTED, **changes}
    return kinds.SelfCorrectionAnswered(
        job=JOB, attempt=3, round=number, base="v001", checkpoint=None, rows=3, **fields
    )


def folded(*events: AnyEvent, number: int | None = None) -> CorrectionChart:
    history = CorrectionHistory()
    for seq, event in enumerate(events, start=1):
        history.observe(Record(seq, f"2026-01-01T00:00:{seq % 60:02}Z", 0, "", event, ""))
    return history.chart(number)


def test_rounds_and_files_are_kept_in_their_order() -> None:
    """A file is there from its intent on, and gets its job when it is queued."""
    chart = folded(FILE, answered(1), answered(2), STARTED)
    assert [each.round for each in chart.rounds] == [1, 2]
    assert (chart.rounds[0].kind, chart.rounds[0].verifier, chart.rounds[0].kl) == ("reflect", "regex", 0.125)
    assert chart.files[0].job is None
    (file,) = folded(FILE, answered(1), answered(2), STARTED, QUEUED).files
    assert (file.job, file.first_round, file.last_round, file.rows) == (QUEUED.job, 1, 2, 6)
    assert chart.spent_s == 3.0


def test_the_answers_of_a_round_have_the_names_of_their_rows() -> None:
    """Those of the newest rounds are kept."""
    chart = folded(FILE, answered(1), number=1)
    assert [(each.row, each.text, each.right, each.times) for each in chart.answers] == [
        ("notes.jsonl:3", "=7", False, 2),
        ("notes.jsonl:3", "=9", True, 1),
    ]
    assert folded(FILE, answered(1)).answers == []
    many = [answered(number) for number in range(1, ROUNDS_WITH_ANSWERS + 2)]
    assert folded(*many, number=1).answers == []
    assert folded(*many, number=2).answers


def test_why_there_are_no_newer_rounds_is_known() -> None:
    """Until the next one, or until a person resumes it."""
    at = {"job": JOB, "attempt": 3, "global_step": 12, "step": 6}
    stopped = kinds.SelfCorrectionStopped(cause="gate", message="v002 is worse")
    notes = {
        "put_off": kinds.SelfCorrectionPutOff(**at, round_s=9.0, trained_s=1.0, cost_max=0.1, next_step=None),
        "failed": kinds.SelfCorrectionFailed(**at, failure="code", message="m", seconds=0.5),
        "abandoned": kinds.SelfCorrectionAbandoned(job=JOB, attempt=3, failure="hang", message="m"),
        "stopped": stopped,
    }
    for kind, event in notes.items():
        note = folded(answered(1), event).note
        assert note is not None
        assert note.kind == kind
        assert folded(event, answered(1)).note is None
    assert folded(stopped, kinds.SelfCorrectionResumed()).note is None
