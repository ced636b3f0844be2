"""Steps that deviate from the plan are exact too: split because they do not fit, or skipped because they are suspect.
Running them again gives the same bits."""

from __future__ import annotations

import json
import time
from typing import Any, NoReturn

import pytest
import torch
from msgspec.structs import replace

import gpu.training.loop
from core.topics.step_recovery import next_split
from events.course import Course, Split
from events.messages import CheckpointWritten, OutOfMemory, Step
from events.settings import DataSettings, EvaluationSettings, GuardSettings, JobSettings, LoraSettings
from gpu.artifacts.checkpoint import write
from gpu.errors import EvaluationFailed, MicrobatchTooLarge, ModelUnusable, SuspectBatch, TrainingDiverged
from tests.gpu.helpers import FULL, LORA, FakeChannel, Home, settings
from tests.harness.tiny_model import make_rows

ROWS = make_rows(10)
"""Three steps an epoch, two epochs; micro-batches of two."""

SPLIT = Course(splits=(Split(step=2, parts=2, steps=64),))
ASIDE = Course(skipped=(4,))

MODES = {
    "lora, dropout": settings(LORA),
    "lora, dropout, bf16": settings(LORA, precision="bf16", weight_decay=0.1),
    "full": settings(FULL, max_grad_norm=0.0),
    "lora, dropout, packing": settings(LORA, data=DataSettings(packing=True, max_length=110)),
}


def words(channel: FakeChannel) -> list[tuple[Any, ...]]:
    """What the journal would hold of each step."""
    return [(fact.global_step, fact.epoch, fact.loss, fact.grad_norm, fact.learning_rate) for fact in channel.of(Step)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", ["forward", "backward"])
def test_memory_that_runs_out_leaves_the_bits_of_a_run_that_knew(
    home: Home, monkeypatch: pytest.MonkeyPatch, mode: str, fault: str
) -> None:
    """The step is run again at once, from unchanged weights, and nothing of the first try is left."""
    job, how = home.add(ROWS), MODES[mode]
    monkeypatch.setenv("KEEPSTEP_FAULTS", f"{fault}:2")
    surprised = home.bits(home.train_job(home.new_session(), job, how))
    found, steps = home.channel.of(OutOfMemory), words(home.channel)
    assert [(fact.step, fact.during) for fact in found] == [(2, "gradients")]
    assert home.channel.course == SPLIT
    monkeypatch.delenv("KEEPSTEP_FAULTS")
    assert home.bits(home.train_job(home.new_session(), job, how, course=SPLIT)) == surprised
    assert words(home.channel) == steps
    assert len(home.channel.of(OutOfMemory)) == 0


def test_a_run_cut_after_the_split_ends_with_the_same_bits(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every step, cold: the course comes with the order."""
    job, how = home.add(ROWS), settings(LORA)
    monkeypatch.setenv("KEEPSTEP_FAULTS", "backward:2")
    whole = home.bits(home.train_job(home.new_session(), job, how))
    expected = words(home.channel)
    monkeypatch.delenv("KEEPSTEP_FAULTS")
    for cut in range(1, 6):
        checkpoint = home.train_job(home.new_session(), job, how, until=cut, course=SPLIT)
        begun = words(home.channel)
        end = home.train_job(home.new_session(), job, how, step=cut, checkpoint=checkpoint, course=SPLIT)
        assert begun + words(home.channel) == expected
        assert home.bits(end) == whole


def test_only_steps_after_the_split_change(home: Home) -> None:
    """It is the same sum in another order, with dropout drawn for each piece."""
    job = home.add(ROWS)
    home.train_job(home.new_session(), job, settings(LORA))
    whole = words(home.channel)
    home.train_job(home.new_session(), job, settings(LORA), course=SPLIT)
    cut = words(home.channel)
    assert cut[:1] == whole[:1]
    assert all(before != now for before, now in zip(whole[1:], cut[1:], strict=True))


def test_the_loss_of_a_split_step_is_the_mean_over_all_its_tokens(home: Home) -> None:
    """But for rounding, and with no dropout."""
    job, how = home.add(ROWS), settings(LoraSettings(r=4))
    home.train_job(home.new_session(), job, how)
    whole = home.channel.of(Step)
    home.train_job(home.new_session(), job, how, course=Course(splits=(Split(step=1, parts=2, steps=64),)))
    for before, now in zip(whole, home.channel.of(Step), strict=True):
        assert now.loss == pytest.approx(before.loss, rel=1e-4)
        assert now.grad_norm == pytest.approx(before.grad_norm, rel=1e-3)
        assert now.tokens == before.tokens


def test_parts_grow_back_when_their_steps_are_over(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the split says; where that does not fit, it is split again, for longer."""
    job, how = home.add(ROWS), settings(LORA)
    short = Course(splits=(Split(step=2, parts=2, steps=2),))
    home.train_job(home.new_session(), job, how, course=short)
    plain = words(home.channel)
    monkeypatch.setenv("KEEPSTEP_FAULTS", "forward:4")
    surprised = home.train_job(home.new_session(), job, how, course=short)
    again = next_split(short, 4, 2)
    assert again is not None
    assert home.channel.course == short.with_split(again)
    assert words(home.channel)[:3] == plain[:3]
    assert words(home.channel)[3] != plain[3]
    monkeypatch.delenv("KEEPSTEP_FAULTS")
    assert home.bits(home.train_job(home.new_session(), job, how, course=short.with_split(again))) == home.bits(
        surprised
    )


def test_memory_that_runs_out_within_an_update_ends_the_attempt(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights have changed, and nothing of that is written; from the last commit it is as if it had known."""
    job, how, session = home.add(ROWS), settings(LORA), home.new_session()
    saved = home.train_job(session, job, how, until=1)
    monkeypatch.setenv("KEEPSTEP_FAULTS", "update:2")
    with pytest.raises(MicrobatchTooLarge) as caught:
        home.train_job(session, job, how, step=1, checkpoint=saved)
    assert (caught.value.step, caught.value.sequences) == (2, 2)
    assert len(home.channel.of(CheckpointWritten)) == 1
    end = home.train_job(home.new_session(), job, how, step=1, checkpoint=saved, course=SPLIT)
    monkeypatch.delenv("KEEPSTEP_FAULTS")
    assert home.bits(end) == home.bits(home.train_job(home.new_session(), job, how, course=SPLIT))


def test_another_error_is_not_taken_for_a_shortage(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    job = home.add(ROWS)
    for owner, name in ((gpu.training.loop, "split_microbatch"), (torch.optim.AdamW, "step")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, broken)
            with pytest.raises(RuntimeError, match="broken"):
                home.train_job(home.new_session(), job, settings(LORA))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", ["nan", "nan_gradient"])
def test_a_suspect_step_is_stopped_and_skipped_by_the_next_attempt(
    home: Home, monkeypatch: pytest.MonkeyPatch, mode: str, fault: str
) -> None:
    """From the last commit, to the bits of a run that was told so from the start."""
    job, how, session = home.add(ROWS), MODES[mode], home.new_session()
    saved = home.train_job(session, job, how, until=2)
    monkeypatch.setenv("KEEPSTEP_FAULTS", f"{fault}:4")
    with pytest.raises(SuspectBatch) as caught:
        home.train_job(session, job, how, step=2, checkpoint=saved)
    fact = caught.value.fact
    assert (fact.step, fact.global_step, fact.suspicion) == (4, 4, "not_finite")
    assert "NaN" in {fact.loss, fact.grad_norm}
    assert len(home.channel.of(Step)) == 3
    end = home.train_job(home.new_session(), job, how, step=2, checkpoint=saved, course=ASIDE)
    monkeypatch.delenv("KEEPSTEP_FAULTS")
    assert home.bits(end) == home.bits(home.train_job(home.new_session(), job, how, course=ASIDE))


def test_a_step_that_is_left_out_keeps_its_number_and_changes_nothing(home: Home) -> None:
    """Neither weights nor moments; the learning rate follows the number of the step."""
    job, how = home.add(ROWS), settings(LORA)
    before = home.train_job(home.new_session(), job, how, until=3)
    aside = home.train_job(home.new_session(), job, how, step=3, until=4, checkpoint=before, course=ASIDE)
    assert home.bits(before) == home.bits(aside)
    home.train_job(home.new_session(), job, how, course=ASIDE)
    fact = home.channel.of(Step)[3]
    assert (fact.step, fact.loss, fact.grad_norm, fact.learning_rate, fact.tokens) == (4, "NaN", 0.0, 0.0, 0)
    rates = [each.learning_rate for each in home.channel.of(Step)]
    home.train_job(home.new_session(), job, how)
    plain = [each.learning_rate for each in home.channel.of(Step)]
    assert rates == [*plain[:3], 0.0, *plain[4:]]


@pytest.mark.parametrize("aside", [1, 3, 6])
def test_the_first_and_the_last_step_can_be_left_out_and_any_cut_gives_the_same(home: Home, aside: int) -> None:
    job, how, course = home.add(ROWS), settings(LORA), Course(skipped=(aside,))
    whole = home.bits(home.train_job(home.new_session(), job, how, course=course))
    for cut in (1, 3, 5):
        checkpoint = home.train_job(home.new_session(), job, how, until=cut, course=course)
        end = home.train_job(home.new_session(), job, how, step=cut, checkpoint=checkpoint, course=course)
        assert home.bits(end) == whole


def test_the_rows_of_a_suspect_batch_are_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    job, how = home.add(ROWS), settings(LORA)
    monkeypatch.setenv("KEEPSTEP_FAULTS", "nan:2")
    session = home.new_session()
    with pytest.raises(TrainingDiverged) as caught:
        home.train_job(session, job, how)
    assert isinstance(caught.value, SuspectBatch)
    prepared = session._prepared[1]
    rows = sorted(prepared.tokens.line(row) for row in prepared.batches.step(2).rows)
    assert (list(caught.value.fact.lines), caught.value.fact.earlier) == (rows, {})
    assert len(rows) == 4


# -- spikes ---------------------------------------------------------------------------------------------------------


def spiky(spike: float = 20.0) -> JobSettings:
    """Thirty-five steps of two rows."""
    how = settings(LORA, batch_size=2, gradient_accumulation=1, epochs=7, every_steps=4)
    return replace(how, guard=GuardSettings(spike=spike))


def test_a_spike_is_stopped_if_it_is_wanted(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    job = home.add(ROWS)
    monkeypatch.setenv("KEEPSTEP_FAULTS", "spike:30")
    with pytest.raises(SuspectBatch, match="is above") as caught:
        home.train_job(home.new_session(), job, spiky())
    assert (caught.value.fact.step, caught.value.fact.suspicion) == (30, "spike")
    assert len(home.channel.of(Step)) == 29
    home.train_job(home.new_session(), job, spiky(0.0))
    assert len(home.channel.of(Step)) == 35


def test_without_a_spike_it_looks_and_changes_nothing(home: Home) -> None:
    job = home.add(ROWS)
    assert home.bits(home.train_job(home.new_session(), job, spiky())) == home.bits(
        home.train_job(home.new_session(), job, spiky(0.0))
    )


def test_a_resumed_worker_compares_with_the_same_losses(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in the checkpoint: whichever one it begins from, it stops at the same step, at the same limit."""
    job, said = home.add(ROWS), set()
    monkeypatch.setenv("KEEPSTEP_FAULTS", "spike:30")
    with pytest.raises(SuspectBatch) as caught:
        home.train_job(home.new_session(), job, spiky())
    said.add(caught.value.fact.message)
    for checkpoint in [each for each in home.channel.of(CheckpointWritten) if each.step >= 12]:
        with pytest.raises(SuspectBatch) as caught:
            home.train_job(home.new_session(), job, spiky(), step=checkpoint.step, checkpoint=checkpoint.checkpoint)
        said.add(caught.value.fact.message)
    assert len(said) == 1


def test_losses_of_steps_that_were_left_out_are_not_held_against_others(home: Home) -> None:
    """There are none: NaN is shown as NaN, in the log of the checkpoint too."""
    job = home.add(ROWS)
    end = home.train_job(home.new_session(), job, spiky(), course=Course(skipped=(5, 20)))
    state = json.loads((home.directory(end) / "trainer_state.json").read_bytes())
    assert [entry["step"] for entry in state["log_history"] if entry["loss"] == "NaN"] == [5, 20]
    assert len(home.channel.of(Step)) == 35


@pytest.mark.parametrize("fault", ["nan:3", "update:3:0", "evaluation:2:0"])
def test_what_is_being_saved_when_a_step_fails_is_saved(
    home: Home, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """It was copied before. Else a job whose every third step fails would never come to commit its second."""

    def slowly(*given: Any) -> Any:
        time.sleep(0.5)  # a disk that takes longer than a step
        return write(*given)

    monkeypatch.setattr("gpu.training.saver.write", slowly)
    monkeypatch.setenv("KEEPSTEP_FAULTS", fault)
    how = settings(LORA, every_steps=2, data=DataSettings(holdout=0.2))
    how = replace(how, evaluation=EvaluationSettings(every_steps=2))
    with pytest.raises((SuspectBatch, MicrobatchTooLarge, EvaluationFailed)):
        home.train_job(home.new_session(), home.add(ROWS), how, evaluates=True)
    assert [fact.step for fact in home.channel.of(CheckpointWritten)] == [2]


def test_a_model_that_cannot_be_exact_on_its_device_is_refused_by_name(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch refuses the operation; the message names it, and what can be done."""

    def refuses(*_: Any) -> NoReturn:
        raise RuntimeError("_histc_cuda does not have a deterministic implementation, but you set …")

    monkeypatch.setattr(gpu.training.loop, "summed_loss", refuses)
    with pytest.raises(ModelUnusable, match=r"_histc_cuda.*CUDA_VISIBLE_DEVICES= keepstep run"):
        home.train_job(home.new_session(), home.add(ROWS), settings(LORA))
