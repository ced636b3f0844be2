"""What a worker takes up again, and what it refuses to put together."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file

from events.messages import Heartbeat, Loaded, Prepare, Prepared, Step, Train
from events.settings import DataSettings, LoraSettings
from gpu.artifacts.manifest import MANIFEST, read_manifest
from gpu.errors import CheckpointForeign, YieldRequested
from journal.failpoints import WORKER
from tests.gpu.helpers import LORA, Home, settings
from tests.harness.hub_cache import put_in_cache
from tests.harness.tiny_model import MARKED_TEMPLATE, make_rows, make_tiny_model, make_tokenizer

FIRST, SECOND = make_rows(10), make_rows(5)


def with_its_own_model(home: Home) -> Path:
    """A model that a test may change."""
    source = (home.path / "model").resolve()
    (home.path / "model").unlink()
    shutil.copytree(source, home.path / "model")
    return home.path / "model"


def other_weights(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1e-6
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


def other_template(model: Path) -> None:
    make_tokenizer(MARKED_TEMPLATE).save_pretrained(model)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (other_weights, r"the base model at model is not the one that it was trained on: its SHA-256 was \w{64}, is"),
        (other_template, "the tokenizer or chat template of model is not the one that it was trained with"),
    ],
)
@pytest.mark.parametrize("step", [0, 2], ids=["another job", "the same job"])
def test_trained_weights_are_not_used_with_another_model_under_the_same_path(
    home: Home, change: Callable[[Path], None], says: str, step: int
) -> None:
    """Whatever the shapes say."""
    model, how = with_its_own_model(home), settings(LORA)
    first = home.add(FIRST)
    checkpoint = home.train_job(home.new_session(), first, how, until=2)
    change(model)
    job = first if step else home.add(SECOND)
    with pytest.raises(CheckpointForeign, match=says):
        home.train_job(home.new_session(), job, how, step=step, global_step=2, checkpoint=checkpoint)
    assert not home.channel.of(Step)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (settings(LoraSettings(r=8, dropout=0.1)), "it has r=4, the settings say r=8"),
        (
            settings(LoraSettings(r=4, target_modules=("q_proj",))),
            "it has target_modules=all-linear, the settings say target_modules=q_proj",
        ),
        (settings(LORA, seed=43), "the batches after it are planned otherwise"),
    ],
)
def test_settings_that_a_checkpoint_does_not_fit_are_named(home: Home, other: Any, says: str) -> None:
    job = home.add(FIRST)
    checkpoint = home.train_job(home.new_session(), job, settings(LORA), until=2)
    with pytest.raises(CheckpointForeign, match=f"{checkpoint} .*{says}"):
        home.train_job(home.new_session(), job, other, step=2, checkpoint=checkpoint)


def test_a_tokenizer_that_another_library_wrote_down_otherwise_is_the_same_tokenizer(home: Home) -> None:
    """The one that lies in the checkpoint proves it."""
    job, how = home.add(FIRST), settings(LORA)
    whole = home.train_job(home.new_session(), job, how)
    checkpoint = home.train_job(home.new_session(), job, how, until=2)
    manifest = read_manifest(home.directory(checkpoint))
    lineage = msgspec.structs.replace(manifest.lineage, tokenizer_sha256="0" * 64)
    renamed = msgspec.structs.replace(manifest, lineage=lineage)
    (home.directory(checkpoint) / MANIFEST).write_bytes(renamed.encode())
    assert home.bits(home.train_job(home.new_session(), job, how, step=2, checkpoint=checkpoint)) == home.bits(whole)


def test_how_far_an_earlier_file_went_does_not_matter_to_the_next(home: Home) -> None:
    """A checkpoint late in one file, and a shorter file after it: every step of that one is trained."""
    checkpoint = home.train_job(home.new_session(), home.add(FIRST), settings(LORA, epochs=10))
    assert read_manifest(home.directory(checkpoint)).cursor.step == 30
    end = home.train_job(home.new_session(), home.add(SECOND), settings(LORA), global_step=30, checkpoint=checkpoint)
    steps_total = home.channel.of(Prepared)[0].plan.steps_total
    assert [fact.step for fact in home.channel.of(Step)] == list(range(1, steps_total + 1)) == [1, 2, 3, 4]
    cursor = read_manifest(home.directory(end)).cursor
    assert (cursor.step, cursor.global_step) == (4, 34)


def test_a_checkpoint_names_the_bytes_that_it_was_trained_on(home: Home) -> None:
    """`sha256sum config.json model.safetensors | sha256sum`."""
    checkpoint = home.train_job(home.new_session(), home.add(SECOND), settings(LORA))
    names = ("config.json", "model.safetensors")
    sums = [hashlib.sha256((home.path / "model" / name).read_bytes()).hexdigest() for name in names]
    lines = "".join(f"{sha256}  {name}\n" for sha256, name in zip(sums, names, strict=True))
    named = read_manifest(home.directory(checkpoint)).lineage.base_sha256
    assert named == hashlib.sha256(lines.encode()).hexdigest()
    assert "load" in {fact.phase for fact in home.channel.of(Heartbeat)}


def test_after_a_failure_nothing_in_memory_is_believed(home: Home) -> None:
    job, how, session = home.add(FIRST), settings(LORA), home.new_session()
    whole = home.bits(home.train_job(session, job, how))
    session.discard()
    torch.manual_seed(3)
    assert home.bits(home.train_job(session, job, how)) == whole


def test_the_failpoints_of_a_worker_are_reached_in_the_order_of_their_table(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a job that is asked to yield; what answers the order to yield is `worker.serve`. It takes no samples, and its
    end is not evaluated."""
    elsewhere = {"token_generated", "answered", "job_rows_evaluated", "job_evaluated"}
    seen: list[str] = []
    for module in (
        "artifacts.commit",
        "data.plan.cache",
        "data.plan.chunk",
        "data.plan.prepare",
        "training.evaluate",
        "training.saver",
        "training.loop",
        "session",
    ):
        monkeypatch.setattr(f"gpu.{module}.failpoint", seen.append)
    held_out = settings(LORA, data=DataSettings(holdout=0.3))
    home.train_job(home.new_session(yield_after=2), home.add(FIRST), held_out, evaluates=True)
    assert seen.count("row_prepared") == 10
    assert seen.count("step") == 2
    first, table = (
        list(dict.fromkeys(seen)),
        [point for point in WORKER if point not in elsewhere],
    )
    assert sorted(first) == sorted(set(table) - {"yield_saved", "yielded"})
    seen_early = [point for point in first if point != "yield_seen"]  # seen before the last save, reported after it
    assert seen_early == [point for point in table if point in seen_early]


def test_training_what_another_attempt_prepared_is_refused(home: Home) -> None:
    """An order that was given out of turn: the tokens in memory may be another file's."""
    session = home.new_session()
    job = home.add(FIRST)
    session.prepare(Prepare(attempt=1, job=job, settings=settings(LORA)))
    order = Train(attempt=2, global_step=0, step=0, until=1, checkpoint=None, carry_optimizer=True)
    with pytest.raises(ValueError, match="before it was prepared"):
        session.train(order)


def test_a_part_of_a_job_can_run_again_after_the_checkpoint_of_another_job(home: Home) -> None:
    """Its batches are no business of that checkpoint's, and the log of it is another job's."""
    first, second = home.add(FIRST), home.add(SECOND)
    checkpoint = home.train_job(home.new_session(), first, settings(LORA))
    at_checkpoint = read_manifest(home.path / "checkpoints" / checkpoint).cursor.global_step
    again = home.train_job(
        home.new_session(), second, settings(LORA), step=1, global_step=at_checkpoint, until=2, checkpoint=checkpoint
    )
    state = json.loads((home.path / "checkpoints" / again / "trainer_state.json").read_bytes())
    assert [entry["step"] for entry in state["log_history"]] == [at_checkpoint + 1]


def test_a_checkpoint_that_stands_elsewhere_than_the_order_says_is_not_gone_on_from(home: Home) -> None:
    """Daemon and worker would count differently from there on."""
    job = home.add(FIRST)
    checkpoint = home.train_job(home.new_session(), job, settings(LORA), until=2)
    with pytest.raises(ValueError, match="the order says"):
        home.train_job(home.new_session(), job, settings(LORA), step=2, global_step=7, checkpoint=checkpoint)


@pytest.mark.parametrize("resumes", [False, True], ids=["from the base", "from a checkpoint"])
def test_a_pause_while_the_model_is_loaded_does_not_wait_for_it(
    home: Home, resumes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes, for a large one. Nothing was trained; the next attempt loads it from the beginning, and is the same."""
    job, how = home.add(FIRST), settings(LORA)
    done = home.train_job(home.new_session(), job, how, until=1) if resumes else None
    monkeypatch.setattr("gpu.model.base._known", {})  # as in a new process: the base is read and hashed
    session = home.new_session()
    home.channel.yield_requested = lambda: bool(home.channel.of(Prepared)) and not home.channel.of(Step)
    step = 1 if resumes else 0
    with pytest.raises(YieldRequested):
        home.train_job(session, job, how, step=step, checkpoint=done)
    assert not home.channel.of(Loaded)
    home.channel.yield_requested = lambda: False
    again = home.train_job(session, job, how, step=step, checkpoint=done)
    straight = home.train_job(home.new_session(), job, how, step=step, checkpoint=done)
    assert home.bits(again) == home.bits(straight)


@pytest.mark.parametrize("revision", ["1" * 40, ""], ids=["pinned", "as trained before"])
def test_a_newer_main_branch_of_a_hub_id_does_not_hold_a_home(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    """Another program may fetch it into the same cache; the home continues with the commit that it trained on."""
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    put_in_cache(tmp_path / "hf" / "hub", "org/name", "1" * 40, home.path / "model")
    how = settings(LORA)
    how = replace(how, model=replace(how.model, path="org/name", revision=revision))
    checkpoint = home.train_job(home.new_session(), home.add(FIRST), how, until=2)
    said = json.loads((home.directory(checkpoint) / "adapter_config.json").read_bytes())
    assert (said["base_model_name_or_path"], said["revision"]) == ("org/name", "1" * 40)
    newer = make_tiny_model(tmp_path / "newer", template=MARKED_TEMPLATE, seed=8)
    put_in_cache(tmp_path / "hf" / "hub", "org/name", "2" * 40, newer)
    end = home.train_job(home.new_session(), home.add(SECOND), how, global_step=2, checkpoint=checkpoint)
    lineage = read_manifest(home.directory(end)).lineage
    assert lineage.base_sha256 == read_manifest(home.directory(checkpoint)).lineage.base_sha256
    assert lineage.settings == how
