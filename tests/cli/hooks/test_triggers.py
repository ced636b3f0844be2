"""Which events are occasions for a hook, and what it is summary."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec
import pytest
from msgspec.structs import replace

from cli.hooks.triggers import TITLES, Triggers, make_summary
from core.failures import EXPLANATIONS
from core.state import State
from events import kinds
from events.codec import kind_of
from events.hooks import HookSettings, HookTrigger
from events.kinds import AnyEvent, BatchSkipped, EvaluationDone, MemoryLow, MemoryRecovered, MicrobatchSplit
from tests.events.examples import CHECKPOINT, EVENTS, JOB

PAGE = Path(__file__).parents[3] / "docs" / "guides" / "get-notified.md"

FAILED = kinds.AttemptFailed(job=JOB, attempt=3, failure="hang", message="no progress", retry_at=1.8e9)
HELD = kinds.DaemonHeld(reason="no model", advice="fix [model]")


LOW = MemoryLow(total_bytes=9, available_bytes=1, worker_bytes=0, grace_s=1.0, at=1.8e9)
HALVED = MicrobatchSplit(job=JOB, attempt=1, global_step=3, step=3, parts=2, steps=64, message="no memory")
ASIDE = BatchSkipped(
    job=JOB,
    attempt=1,
    global_step=5,
    step=5,
    loss="NaN",
    grad_norm="NaN",
    suspicion="not_finite",
    message="m",
    lines=(7,),
    earlier={},
)

RISES = EvaluationDone(
    job=JOB,
    attempt=1,
    global_step=4,
    step=4,
    rows=8,
    tokens=80,
    loss=2.0,
    training_loss=1.6,
    seconds=0.1,
    concern="gap",
)
FALLS = replace(RISES, concern=None)
OTHER = "cd" * 32


def committed() -> kinds.CheckpointCommitted:
    return next(event for event in EVENTS if isinstance(event, kinds.CheckpointCommitted))


def test_every_trigger_has_a_setting_a_title_and_a_line_in_the_docs() -> None:
    """And no setting is for nothing."""
    names = set(get_args(HookTrigger))
    assert set(TITLES) == names
    assert {name for name in HookSettings.__struct_fields__ if name.startswith("on_")} == {f"on_{n}" for n in names}
    text = PAGE.read_text(encoding="utf-8").partition("<!-- hooks -->")[2].partition("<!-- /hooks -->")[0]
    assert {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")} == {f"on_{n}" for n in names}


def test_every_trigger_comes_from_an_event() -> None:
    """Of all kinds that there are, in the order of the examples."""
    triggers = Triggers(State())
    assert {triggers.trigger_of(event) for event in (*EVENTS, HELD, kinds.Resumed())} == {None, *get_args(HookTrigger)}


@pytest.mark.parametrize(
    ("events", "seen"),
    [
        ([kinds.Resumed()], [None]),
        ([HELD, kinds.Resumed(), kinds.Resumed()], ["held", "recovered", None]),
        ([committed()], [None]),
        ([FAILED, FAILED, committed(), committed()], ["attempt_failed", "attempt_failed", "recovered", None]),
        ([FAILED, kinds.JobFailed(job=JOB, message="m"), committed()], ["attempt_failed", "job_failed", None]),
        ([FAILED, kinds.JobSkipped(job=JOB), committed()], ["attempt_failed", None, None]),
        ([kinds.ConsolidationAborted(attempt=1, failure=None, message="", retry_at=None)], [None]),
        ([kinds.ConsolidationAborted(attempt=1, failure="code", message="", retry_at=None)], ["attempt_failed"]),
        ([kinds.StorageFreed(free_bytes=1)], ["recovered"]),
        ([LOW, MemoryRecovered(available_bytes=1)], ["memory_low", "recovered"]),
        ([HALVED], ["micro_batch_split"]),
        ([RISES, RISES, FALLS, RISES], ["validation_alert", None, None, "validation_alert"]),
        ([RISES, replace(RISES, concern="wide_gap"), replace(RISES, job=OTHER)], ["validation_alert"] * 3),
        ([FAILED, ASIDE, committed()], ["attempt_failed", "batch_skipped", "recovered"]),
    ],
)
def test_recovered_is_said_once_and_only_after_trouble(events: list[AnyEvent], seen: list[str | None]) -> None:
    """A pause that ends is none."""
    triggers = Triggers(State())
    assert [triggers.trigger_of(event) for event in events] == seen


def test_a_summary_has_what_applies_and_nothing_else() -> None:
    """As JSON, and as variables."""
    summary = make_summary(
        "attempt_failed", FAILED, seq=7, at="t", kind=kind_of(FAILED), home="/h", message="m" * 9_999, job_name="a\0b"
    )
    fields = msgspec.json.decode(msgspec.json.encode(summary))
    assert fields["failure"] == "hang"
    assert fields["meaning"] == EXPLANATIONS["hang"].meaning
    assert (fields["job"], fields["attempt"], fields["seq"], len(fields["message"])) == (JOB, 3, 7, 4_000)
    assert "checkpoint" not in fields
    environment = summary.environment()
    assert environment["KEEPSTEP_JOB_NAME"] == "ab"  # a variable cannot hold a zero
    assert environment["KEEPSTEP_ADVICE"] == EXPLANATIONS["hang"].advice
    assert "KEEPSTEP_VERSION" not in environment


@pytest.mark.parametrize(
    ("event", "advice", "checkpoint"),
    [
        (HELD, "fix [model]", None),
        (ASIDE, EXPLANATIONS["loss"].advice, None),
        (HALVED, EXPLANATIONS["out_of_memory"].advice, None),
        (RISES, EXPLANATIONS["validation"].advice, None),
        (
            kinds.CheckpointQuarantined(checkpoint=CHECKPOINT, problem="p", head=None),
            EXPLANATIONS["damaged"].advice,
            CHECKPOINT,
        ),
    ],
)
def test_the_advice_is_that_of_the_event_or_of_its_failure(
    event: AnyEvent, advice: str, checkpoint: str | None
) -> None:
    """A hold was journaled with its own."""
    summary = make_summary("held", event, seq=1, at="", kind="", home="", message="", job_name=None)
    assert summary.advice == advice
    assert (summary.checkpoint is msgspec.UNSET) == (checkpoint is None)
