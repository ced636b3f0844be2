"""Exactness: a run that is cut at any step ends with the same bits."""

from __future__ import annotations

import json
import shutil
import threading
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from events.messages import CheckpointWritten, Heartbeat, Loaded, Prepared, Step
from events.settings import DataSettings, LoraSettings
from gpu import session
from gpu.errors import CheckpointBroken, ModelUnusable, TrainingDiverged
from gpu.versions.rehearsal import Rehearsal
from tests.gpu.helpers import FULL, LORA, QLORA, FakeChannel, Home, settings
from tests.harness.tiny_model import make_rows

ROWS = make_rows(10)
"""Three steps an epoch, the last of them smaller."""

MODES = {
    "lora, dropout": settings(LORA),
    "lora, dropout, bf16": settings(LORA, precision="bf16", weight_decay=0.1),
    "lora, dropout, bf16 with bf16 weights": settings(LORA, precision="bf16", dtype="bfloat16"),
    "qlora, dropout": settings(QLORA),
    "full": settings(FULL, max_grad_norm=0.0),
    "lora, own betas and warm-up": settings(
        LORA, betas=(0.8, 0.95), eps=1e-4, warmup_ratio=0.3, min_learning_rate_ratio=0.5
    ),
    "lora, dropout, plain kernels": settings(LORA, kernels="plain"),
    "lora, dropout, packing": settings(LORA, data=DataSettings(packing=True, max_length=150)),
}


def words(channel: FakeChannel) -> list[tuple[Any, ...]]:
    """What the journal would hold of each step."""
    return [(fact.global_step, fact.epoch, fact.loss, fact.grad_norm, fact.learning_rate) for fact in channel.of(Step)]


@pytest.mark.parametrize("mode", MODES)
def test_a_run_cut_at_any_step_ends_with_the_bits_of_one_that_was_not(home: Home, mode: str) -> None:
    """Each part by a worker that has nothing in memory."""
    job, how = home.add(ROWS), MODES[mode]
    whole = home.bits(home.train_job(home.new_session(), job, how))
    expected = words(home.channel)
    assert [step for step, *_ in expected] == [1, 2, 3, 4, 5, 6]
    for cut in range(1, 6):
        checkpoint = home.train_job(home.new_session(), job, how, until=cut)
        begun = words(home.channel)
        checkpoint = home.train_job(home.new_session(), job, how, step=cut, checkpoint=checkpoint)
        assert begun + words(home.channel) == expected
        assert home.bits(checkpoint) == whole


@pytest.mark.parametrize("mode", MODES)
def test_continuing_from_memory_gives_the_bits_of_continuing_from_disk(home: Home, mode: str) -> None:
    """Two jobs, the second warm or cold; other work in between does not matter."""
    first, second, how = home.add(ROWS), home.add(make_rows(5)), MODES[mode]
    session = home.new_session()
    checkpoint = home.train_job(session, first, how)
    torch.manual_seed(99)
    from_memory = home.train_job(session, second, how, global_step=6, checkpoint=checkpoint)
    from_disk = home.train_job(home.new_session(), second, how, global_step=6, checkpoint=checkpoint)
    assert home.bits(from_memory) == home.bits(from_disk)


def test_each_setting_of_the_optimizer_decides_the_bits(home: Home) -> None:
    """And a warm-up of half the steps is the same as one of three steps."""
    job = home.add(ROWS)
    changes: list[dict[str, Any]] = [
        {},
        {"betas": (0.8, 0.999)},
        {"betas": (0.9, 0.99)},
        {"eps": 1e-3},
        {"min_learning_rate_ratio": 0.5},
        {"warmup_ratio": 0.5},
    ]
    bits = [home.bits(home.train_job(home.new_session(), job, settings(LORA, **change))) for change in changes]
    assert not [each for index, each in enumerate(bits) if each in bits[:index]]
    assert home.bits(home.train_job(home.new_session(), job, settings(LORA, warmup_steps=3))) == bits[-1]


def test_a_warm_worker_loads_the_ordered_checkpoint_not_the_one_in_memory(home: Home) -> None:
    job, how, session = home.add(ROWS), settings(LORA), home.new_session()
    early = home.train_job(session, job, how, until=2)
    end = home.train_job(session, job, how, step=2, checkpoint=early)
    again = home.train_job(session, job, how, step=2, checkpoint=early)
    assert home.bits(again) == home.bits(end)
    assert home.bits(home.train_job(session, job, how)) == home.bits(end)


def test_saving_during_training_does_not_change_it(home: Home) -> None:
    job = home.add(ROWS)
    quiet = home.train_job(home.new_session(), job, settings(LORA))
    assert len(home.channel.of(CheckpointWritten)) == 1
    busy = home.train_job(home.new_session(), job, settings(LORA, every_steps=1))
    assert home.bits(busy) == home.bits(quiet)
    written = home.channel.of(CheckpointWritten)
    assert [fact.reason for fact in written[:-1]] == ["steps"] * (len(written) - 1)
    assert written[-1].reason == "end"
    assert [fact.parent for fact in written] == [None, *(fact.checkpoint for fact in written[:-1])]


def test_a_checkpoint_holds_its_step_although_training_continued(home: Home) -> None:
    job = home.add(ROWS)
    home.train_job(home.new_session(), job, settings(LORA, every_steps=2))
    after = home.channel.of(CheckpointWritten)[0]
    until = home.train_job(home.new_session(), job, settings(LORA), until=after.step)
    assert home.bits(after.checkpoint) == home.bits(until)


def test_no_checkpoint_is_written_before_the_last_one_is_committed(home: Home) -> None:
    session, job = home.new_session(commits=False), home.add(ROWS)
    running = threading.Thread(target=home.train_job, args=(session, job, settings(LORA, every_steps=1)), daemon=True)
    running.start()
    while len(home.channel.of(Step)) < 6:
        running.join(0.01)
    running.join(0.2)
    assert len(home.channel.of(CheckpointWritten)) == 1
    home.channel.committed.set()
    running.join(30)
    assert [fact.reason for fact in home.channel.of(CheckpointWritten)] == ["steps", "end"]


def test_asked_to_yield_it_commits_at_the_next_step_boundary(home: Home) -> None:
    job, how = home.add(ROWS), settings(LORA)
    whole = home.train_job(home.new_session(), job, how)
    yielded = home.train_job(home.new_session(yield_after=4), job, how)
    assert [(fact.step, fact.reason) for fact in home.channel.of(CheckpointWritten)] == [(4, "yield")]
    assert home.bits(home.train_job(home.new_session(), job, how, step=4, checkpoint=yielded)) == home.bits(whole)


def test_moments_are_carried_over_or_reset(home: Home) -> None:
    first, second, how = home.add(ROWS), home.add(make_rows(5)), settings(LORA)
    session = home.new_session()
    checkpoint = home.train_job(session, first, how)
    carried = home.train_job(home.new_session(), second, how, global_step=6, checkpoint=checkpoint)
    reset = home.train_job(home.new_session(), second, how, global_step=6, checkpoint=checkpoint, carry=False)
    reset_warm = home.train_job(session, second, how, global_step=6, checkpoint=checkpoint, carry=False)
    assert home.bits(carried) != home.bits(reset)
    assert home.bits(reset) == home.bits(reset_warm)


def test_a_resume_inside_a_job_keeps_its_moments_and_its_log(home: Home) -> None:
    job, how = home.add(ROWS), settings(LORA)
    whole = home.train_job(home.new_session(), job, how, carry=False)
    part = home.train_job(home.new_session(), job, how, until=3, carry=False)
    end = home.train_job(home.new_session(), job, how, step=3, checkpoint=part, carry=False)
    assert home.bits(end) == home.bits(whole)
    logs = [json.loads((home.directory(each) / "trainer_state.json").read_bytes()) for each in (whole, end)]
    assert logs[0] == logs[1]
    assert len(logs[0]["log_history"]) == 6


def test_a_checkpoint_of_another_job_begins_a_new_log(home: Home) -> None:
    how, session = settings(LORA), home.new_session()
    checkpoint = home.train_job(session, home.add(make_rows(5)), how)
    end = home.train_job(session, home.add(ROWS), how, step=2, global_step=4, checkpoint=checkpoint)
    state = json.loads((home.directory(end) / "trainer_state.json").read_bytes())
    assert [entry["step"] for entry in state["log_history"]] == [5, 6, 7, 8]


def test_the_loss_is_the_mean_over_the_tokens_of_the_step_however_it_is_split(home: Home) -> None:
    """One batch of ten is four micro-batches of three and one, but for rounding (and with no dropout)."""
    plain = LoraSettings(r=4)
    job = home.add(ROWS)
    whole = settings(plain, batch_size=10, gradient_accumulation=1, epochs=1)
    parts = settings(plain, batch_size=3, gradient_accumulation=4, epochs=1)
    home.train_job(home.new_session(), job, whole)
    together = home.channel.of(Step)[0]
    home.train_job(home.new_session(), job, parts)
    apart = home.channel.of(Step)[0]
    assert apart.loss == pytest.approx(together.loss, rel=1e-5)
    assert apart.grad_norm == pytest.approx(together.grad_norm, rel=1e-4)
    assert apart.tokens == together.tokens == home.channel.of(Prepared)[0].plan.tokens


def test_packing_does_not_change_a_step(home: Home) -> None:
    """One step of all rows, so that it is the same step with packing and without."""
    plain, job, seen = LoraSettings(r=4), home.add(ROWS), []
    for packing in (False, True):
        how = settings(plain, data=DataSettings(packing=packing, max_length=200), batch_size=10, epochs=1)
        home.train_job(home.new_session(), job, how)
        seen.append(home.channel.of(Step)[0])
    apart, packed = seen
    assert packed.loss == pytest.approx(apart.loss, rel=1e-5)
    assert packed.grad_norm == pytest.approx(apart.grad_norm, rel=1e-4)
    assert packed.tokens == apart.tokens


def test_training_reduces_the_loss(home: Home) -> None:
    home.train_job(home.new_session(), home.add(ROWS), settings(FULL, epochs=6))
    losses = [fact.loss for fact in home.channel.of(Step)]
    assert losses[-1] < losses[0] / 2


def test_numbers_that_run_away_stop_the_attempt_before_the_weights_are_touched(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the rehearsal has missed."""
    _poison(home)
    monkeypatch.setattr(session, "rehearse", lambda *_: Rehearsal("known", 0.0))
    with pytest.raises(TrainingDiverged) as diverged:
        home.train_job(home.new_session(), home.add(ROWS), settings(FULL))
    assert diverged.value.global_step == 1
    assert not home.channel.of(CheckpointWritten)


def _poison(home: Home) -> None:
    """One of the model's weights is infinite."""
    source = (home.path / "model").resolve()
    (home.path / "model").unlink()
    shutil.copytree(source, home.path / "model")
    tensors = load_file(source / "model.safetensors")
    tensors["model.norm.weight"][0] = float("inf")
    save_file(tensors, home.path / "model" / "model.safetensors", metadata={"format": "pt"})


def test_what_is_said_while_it_works(home: Home) -> None:
    home.train_job(home.new_session(), home.add(ROWS), settings(LORA))
    loaded = home.channel.of(Loaded)[0].environment
    assert {"python", "torch", "transformers", "peft", "device", "threads", "cpu_capability"} <= loaded.keys()
    assert (loaded["deterministic"], loaded["threads"]) == ("true", "1")
    assert {"load"} <= {fact.phase for fact in home.channel.of(Heartbeat)}
    assert all(isinstance(fact.loss, float) and fact.tokens > 0 and fact.seconds > 0 for fact in home.channel.of(Step))


def test_a_damaged_checkpoint_is_named_before_anything_is_trained(home: Home) -> None:
    job, how = home.add(ROWS), settings(LORA)
    checkpoint = home.train_job(home.new_session(), job, how, until=2)
    (home.directory(checkpoint) / "optimizer.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointBroken):
        home.train_job(home.new_session(), job, how, step=2, checkpoint=checkpoint)
    assert not home.channel.of(Step)


@pytest.mark.parametrize("path", ["nowhere", "/nowhere/at/all", "data"])
def test_a_model_that_cannot_be_loaded_is_said_plainly(home: Home, path: str) -> None:
    job, how = home.add(ROWS), settings(LORA)
    how = msgspec.structs.replace(how, model=msgspec.structs.replace(how.model, path=path))
    with pytest.raises(ModelUnusable, match=r"keepstep\.toml|\[model\] path"):
        home.train_job(home.new_session(), job, how)
