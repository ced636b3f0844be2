"""The worker's code runs trained steps again, in a scratch directory."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from events.course import Course, Split
from events.messages import Prepared
from events.values import CheckpointId
from gpu.errors import MicrobatchTooLarge, PlanChanged
from gpu.ipc.protocol import Refusal, Reran, Rerun, RerunRange
from gpu.training import rerun as running
from gpu.training.rerun import RecordingChannel, rerun
from tests.gpu.helpers import LORA, Home, settings
from tests.harness.tiny_model import make_rows

HOW = settings(LORA, every_steps=1)


@pytest.fixture
def trained(home: Home) -> tuple[Home, str, str]:
    """A home, its job, and the checkpoint at the end of its four steps."""
    job = home.add(make_rows(6))
    return home, job, home.train_job(home.new_session(), job, HOW)


def order(home: Home, job: str, checkpoint: CheckpointId | None = None, **how: Any) -> Rerun:
    (home.path / "scratch").mkdir(exist_ok=True)
    plan = home.channel.of(Prepared)[-1].plan
    rerun_range = RerunRange(
        job=job,
        attempt=1,
        settings=HOW,
        batches_sha256=plan.batches_sha256,
        global_step=0,
        step=0,
        until=4,
        carry_optimizer=True,
    )
    return Rerun(
        home=str(home.path),
        scratch=str(home.path / "scratch"),
        checkpoint=checkpoint,
        rerun_ranges=(msgspec.structs.replace(rerun_range, **how),),
    )


def test_it_gives_the_same_bits_and_keeps_only_the_last_checkpoint(trained: tuple[Home, str, str]) -> None:
    home, job, checkpoint = trained
    said: list[str] = []
    ran = rerun(order(home, job), said.append)
    assert ran.checkpoint == checkpoint
    assert [step for step, _, _ in ran.bits] == [1, 2, 3, 4]
    assert [path.name for path in (home.path / "scratch").iterdir()] == [checkpoint]
    again = Home(home.path / "scratch")
    (again.path / "checkpoints").symlink_to(again.path)
    assert again.bits(checkpoint) == home.bits(checkpoint)
    assert ran.environment["device"] == "cpu"
    assert said[0] == "\rstep 1"


def test_a_changed_batch_plan_is_refused(trained: tuple[Home, str, str]) -> None:
    home, job, _ = trained
    with pytest.raises(PlanChanged, match="has changed since it was trained"):
        rerun(order(home, job, batches_sha256="0" * 64))
    assert not list((home.path / "scratch").iterdir())


def test_steps_are_cut_and_left_out_as_they_were(home: Home) -> None:
    job, course = home.add(make_rows(6)), Course(splits=(Split(step=2, parts=2, steps=64),), skipped=(3,))
    checkpoint = home.train_job(home.new_session(), job, HOW, course=course)
    ran = rerun(order(home, job, course=course))
    again = Home(home.path / "scratch")
    (again.path / "checkpoints").symlink_to(again.path)
    assert again.bits(checkpoint) == home.bits(checkpoint)
    assert ran.bits[2] == (3, "NaN", 0.0)


def test_where_a_step_does_not_fit_it_is_not_cut_to_other_bits(
    trained: tuple[Home, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, job, _ = trained
    monkeypatch.setenv("KEEPSTEP_FAULTS", "forward:2")
    with pytest.raises(MicrobatchTooLarge, match="step 2 does not fit into memory with 2 sequences at once"):
        rerun(order(home, job))


def test_nobody_waits_for_what_was_not_said(trained: tuple[Home, str, str]) -> None:
    home, _, checkpoint = trained
    channel = RecordingChannel(home.path, lambda _: None)
    assert not channel.yield_requested()
    assert not channel.is_committed(checkpoint)
    with pytest.raises(AssertionError):
        channel.wait_committed(checkpoint)


def test_it_is_a_command_that_answers_in_one_line_whatever_happens(
    trained: tuple[Home, str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    home, job, _ = trained
    for wanted, says in ((order(home, job), Reran), (order(home, "0" * 64), Refusal)):
        monkeypatch.setattr("sys.argv", ["gpu.training.rerun", msgspec.json.encode(wanted).decode()])
        running.main()
        answer: Any = msgspec.json.decode(capfd.readouterr().out, type=Reran | Refusal)
        assert isinstance(answer, says)
