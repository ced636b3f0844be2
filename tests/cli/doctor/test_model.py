"""Checks of what is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cli.commands.backup import create_backup
from cli.doctor import model as checks_model
from cli.doctor.context import DoctorContext
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from core import commands
from tests.cli.supervision.test_watchdog import daemon
from tests.harness.hub_cache import put_in_cache
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("warm")

Break = Callable[[Path], object]


def rewrite(name: str, **keys: object) -> Break:
    def change(model: Path) -> None:
        path = model / name
        path.write_text(json.dumps({**json.loads(path.read_bytes()), **keys}), encoding="utf-8")

    return change


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (lambda model: model.rename(model.with_name("elsewhere")), "is not downloaded yet"),
        (lambda model: (model / "config.json").unlink(), "it has no config.json"),
        (rewrite("config.json", quantization_config={"bits": 4}), "is quantized on disk"),
        (lambda model: (model / "model.safetensors").unlink(), "has no weights as safetensors"),
        (lambda model: (model / "model.safetensors").write_bytes(b"rubbish"), "has a damaged model.safetensors"),
        (lambda model: (model / "model.safetensors").rename(model / "weights.safetensors"), "only weights.safetensors"),
        (lambda model: (model / "adapter_config.json").write_text("{}"), "contains an adapter"),
        (rewrite("config.json", transformers_weights="w.safetensors"), "names w.safetensors as its weights"),
        (lambda model: (model / "tokenizer.json").unlink(), "has no tokenizer"),
    ],
)
def test_untrainable_model_is_reported_before_it_is_loaded(trained: Home, breaking: Break, message: str) -> None:
    """By its files alone, with what is wrong with which."""
    assert checks_model.model(DoctorContext(trained)).level == "pass"
    breaking(trained.root / "model")
    found = checks_model.model(DoctorContext(trained))
    assert found.level != "pass"
    assert message in found.message
    assert found.advice


def test_model_with_too_few_tokens_is_reported_with_both_numbers(trained: Home) -> None:
    """A tokenizer with more tokens than the embedding has rows, an end that is beyond it, too few positions."""
    model = trained.root / "model"
    tokenizer = json.loads((model / "tokenizer.json").read_bytes())
    added = {**tokenizer["added_tokens"][-1], "id": 262, "content": "<think>"}
    (model / "tokenizer.json").write_text(
        json.dumps({**tokenizer, "added_tokens": [*tokenizer["added_tokens"], added]}), encoding="utf-8"
    )
    found = checks_model.model(DoctorContext(trained))
    assert found.level == "warn"
    assert "the tokenizer has 263 tokens, and the embedding of the model has 262 rows" in found.message
    rewrite("tokenizer_config.json", eos_token="<think>")(model)
    found = checks_model.model(DoctorContext(trained))
    assert (found.level, "eos_token of the tokenizer is 262" in found.message) == ("fail", True)


def test_max_length_beyond_the_positions_of_the_model_is_reported(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "vocab_size": 9, "n_positions": 64}')
    assert checks_model.check_limits(tmp_path, 64) is None
    found = checks_model.check_limits(tmp_path, 1024)
    assert found is not None
    assert (found.level, found.advice) == ("warn", "`keepstep config set data.max_length 64`")
    assert "64 positions, and [data] max_length = 1024" in found.message
    (tmp_path / "config.json").write_text("{")
    broken = checks_model.check_limits(tmp_path, 64)
    assert (broken and broken.level) == "fail"


def test_unpinned_hub_id_is_reported_with_the_command_that_pins_it(
    trained: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is pinned, there is nothing to say."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    put_in_cache(tmp_path / "hub", "org/name", "1" * 40, trained.root / "model")
    trained.config.write_text(
        trained.config.read_text(encoding="utf-8").replace('path = "model"', 'path = "org/name"'), encoding="utf-8"
    )
    found = checks_model.model(DoctorContext(trained))
    assert (found.level, found.advice) == ("warn", f"keepstep config set model.revision {'1' * 40}")
    trained.config.write_text(
        trained.config.read_text(encoding="utf-8").replace("[model]\n", f'[model]\nrevision = "{"1" * 40}"\n'),
        encoding="utf-8",
    )
    assert checks_model.model(DoctorContext(trained)).level == "pass"


def test_damaged_checkpoint_is_reported_with_its_recovery(trained: Home) -> None:
    """What is as long as it was needs the deep look."""
    head = load_state(trained)[0].state.head.checkpoint
    assert head is not None
    weights = trained.checkpoints / head.id / "adapter_model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert checks_model.checkpoints(DoctorContext(trained)).level == "pass"
    found = checks_model.checkpoints(DoctorContext(trained, deep=True))
    assert found.level == "fail"
    assert "adapter_model.safetensors does not have the SHA-256" in found.message
    assert "runs step 2 again" in found.advice
    weights.write_bytes(data[:-1])
    assert checks_model.checkpoints(DoctorContext(trained)).level == "fail"


def test_a_head_that_cannot_be_loaded_is_found_by_loading_it(trained: Home) -> None:
    """The rehearsal says why, in the worker's words."""
    config = trained.root / "model" / "config.json"
    config.write_text(
        config.read_text(encoding="utf-8").replace("{", '{"quantization_config": {"bits": 4},', 1), "utf-8"
    )
    assert checks_model.resume(DoctorContext(trained)).level == "pass"
    found = checks_model.resume(DoctorContext(trained, deep=True))
    assert found.level == "fail"
    assert "cannot be loaded" in found.message
    assert "quantized on disk" in found.message


def test_damaged_backup_is_reported(trained: Home) -> None:
    """By names and sizes at once."""
    create_backup(trained, "to be sure")
    assert checks_model.backups(DoctorContext(trained)).message == "1 backup intact (by names and sizes)"
    (backup,) = load_state(trained)[0].state.retention.backups
    next((trained.backups / backup.id).rglob("*.safetensors")).unlink()
    assert checks_model.backups(DoctorContext(trained)).level == "fail"


def test_missing_data_of_a_waiting_job_is_reported(home: Home) -> None:
    """With the way past it."""
    job = "f" * 64
    with closing(EventStore.open(home)) as store:
        store.execute(commands.AddFile(job=job, name="gone.jsonl", size_bytes=3, priority="normal", known=False))
    found = checks_model.data(DoctorContext(home))
    assert found.level == "fail"
    assert "`keepstep skip ffffffffffff`" in found.advice
    home.data_file(job).write_text("ok", encoding="utf-8")
    assert checks_model.data(DoctorContext(home)).message == "the data of gone.jsonl has 2 bytes"
    home.data_file(job).write_text("ok\n", encoding="utf-8")
    assert checks_model.data(DoctorContext(home)).level == "pass"


def test_next_step_is_described(home: Home, drop: Callable[..., Path]) -> None:
    """Job, step, checkpoint and base: of no job, of one that waits, of one in progress."""
    base = "from the base model"
    assert (
        checks_model.resume(DoctorContext(home)).message
        == f"no file waits; the next one starts at global step 1, {base}"
    )
    drop("a.jsonl", "ok wait ok ok")
    with daemon(home) as process:
        eventually(lambda: load_state(home)[0].state.attempts.reached.step >= 1)
        home.stop_file.touch()
        assert process.wait(20) == 0
    head = "from step-00000002-attempt-0001 on the base model"
    assert checks_model.resume(DoctorContext(home)).message == f"next: step 3/4 of a.jsonl (global step 3), {head}"


def test_a_file_that_waits_is_named_as_the_next(home: Home) -> None:
    """With the step that it begins at."""
    with closing(EventStore.open(home)) as store:
        store.execute(commands.AddFile(job="e" * 64, name="b.jsonl", size_bytes=1, priority="low", known=False))
    message = "next: step 1 of b.jsonl (global step 1), from the base model"
    assert checks_model.resume(DoctorContext(home)).message == message
