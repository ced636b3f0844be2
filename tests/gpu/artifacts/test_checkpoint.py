"""Checkpoints: what is in one, and what is not believed."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.trainer_callback import TrainerState

from events.messages import CheckpointWritten
from events.settings import LoraSettings
from gpu.artifacts import checkpoint
from gpu.artifacts.artifact import CheckpointDirectory
from gpu.artifacts.compatibility import TrainingTarget
from gpu.artifacts.manifest import MANIFEST, FileEntry, read_manifest
from gpu.errors import CheckpointBroken, CheckpointForeign, StorageFailed, TrainingDiverged
from gpu.model.build import build
from gpu.model.files import CHAT_TEMPLATES, tokenizer_files
from tests.gpu.helpers import FULL, LORA, Home, settings
from tests.harness.architectures import make_model
from tests.harness.tiny_model import PLAIN_TEMPLATE, make_rows, make_tiny_model

ROWS = make_rows(8)
CPU = torch.device("cpu")


def trained(home: Home, how: Any) -> Path:
    """A checkpoint of a short job."""
    return home.directory(home.train_job(home.new_session(), home.add(ROWS), how))


def ground(how: Any, directory: Path, trained: Any) -> TrainingTarget:
    """What the checkpoint belongs to, if `how` and `trained` are right."""
    try:
        tokenizer_sha256 = read_manifest(directory).lineage.tokenizer_sha256
    except CheckpointBroken:
        tokenizer_sha256 = ""
    return TrainingTarget(how, trained.shapes, trained.base_sha256, tokenizer_sha256)


def loaded(home: Home, how: Any, directory: Path) -> tuple[Any, Any]:
    """A new model and optimizer, standing at the checkpoint."""
    trained = build(how, home.path, CPU)
    optimizer = torch.optim.AdamW(trained.parameters.values())
    checkpoint.reset_moments(trained, optimizer)
    checkpoint.load(directory, trained, optimizer, ground(how, directory, trained))
    return trained, optimizer


def test_buffers_are_saved_in_their_own_kind_and_loaded_strictly(tmp_path: Path) -> None:
    """Also those that hold no floating-point numbers; a checkpoint of before they were saved still loads."""
    make_model(tmp_path / "model", "apertus")
    home, how = Home(tmp_path), settings(FULL)
    directory = trained(home, how)
    manifest = read_manifest(directory)
    assert {kind for _, _, kind in manifest.buffers} == {"F32"}
    built = build(how, tmp_path, CPU)
    ours = ground(how, directory, built)._replace(buffers=built.buffer_kinds)
    before = {name: buffer.clone() for name, buffer in built.buffers.items()}
    for buffer in built.buffers.values():
        buffer.zero_()
    checkpoint.load(directory, built, None, ours)
    assert all(torch.equal(built.buffers[name], before[name]) for name in before)
    with pytest.raises(CheckpointForeign, match="buffers are not those of the model"):
        checkpoint.load(directory, built, None, ours._replace(buffers=()))
    weights = {
        name: tensor for name, tensor in load_file(directory / "model.safetensors").items() if name not in before
    }
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    data = (directory / "model.safetensors").read_bytes()
    entry = FileEntry(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    old = msgspec.structs.replace(manifest, buffers=(), files={**manifest.files, "model.safetensors": entry})
    said = msgspec.json.decode(old.encode())
    del said["buffers"]
    (directory / MANIFEST).write_bytes(msgspec.json.encode(said))
    checkpoint.load(directory, built, None, ours)
    assert all(torch.equal(built.buffers[name], before[name]) for name in before)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(6, 30)[None]).logits


def test_peft_reads_an_adapter_and_answers_as_the_trained_model_does(home: Home) -> None:
    directory = trained(home, settings(LORA))
    base = AutoModelForCausalLM.from_pretrained(home.path / "model")
    untrained = logits(base)
    theirs = PeftModel.from_pretrained(base, directory)
    assert theirs.peft_config["default"].base_model_name_or_path == str((home.path / "model").resolve())
    ours = loaded(home, settings(LORA), directory)[0].model
    assert torch.equal(logits(theirs), logits(ours))
    assert not torch.equal(untrained, logits(ours))


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_reads_full_weights_and_its_tokenizer(tmp_path: Path, tied: bool) -> None:
    make_tiny_model(tmp_path / "model", tie_word_embeddings=tied)
    home = Home(tmp_path)
    directory = trained(home, settings(FULL))
    theirs, found = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not any(found.values())
    assert torch.equal(logits(theirs), logits(loaded(home, settings(FULL), directory)[0].model))
    assert not torch.equal(logits(theirs), logits(AutoModelForCausalLM.from_pretrained(home.path / "model")))
    assert AutoTokenizer.from_pretrained(directory).chat_template is not None


def test_trainer_state_is_what_transformers_reads(home: Home) -> None:
    state = TrainerState.load_from_json(trained(home, settings(LORA)) / "trainer_state.json")
    assert (state.global_step, state.max_steps, state.num_train_epochs, state.epoch) == (4, 4, 2, 2.0)
    assert [entry["step"] for entry in state.log_history] == [1, 2, 3, 4]
    assert set(state.log_history[0]) == {"epoch", "step", "loss", "grad_norm", "learning_rate"}


def test_manifest_and_report_say_the_same_of_the_same_files(home: Home) -> None:
    directory = trained(home, settings(LORA))
    written = home.channel.of(CheckpointWritten)[-1]
    manifest = CheckpointDirectory(directory).verify()
    assert written.manifest_sha256 == hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest()
    assert written.size_bytes == sum(path.stat().st_size for path in directory.iterdir())
    assert (manifest.cursor.global_step, manifest.cursor.step, manifest.cursor.epoch) == (4, 4, 2)
    assert [name for name, _ in manifest.parameters][:2] == [
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
    ]
    assert not list(directory.parent.glob(".staging-*"))


def test_every_file_is_for_its_owner_alone(home: Home) -> None:
    """Those that a library writes too."""
    directory = trained(home, settings(LORA))
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}


def test_loading_gives_back_weights_and_moments_bit_for_bit(home: Home) -> None:
    directory = trained(home, settings(LORA))
    weights, state = checkpoint.copy_state(*loaded(home, settings(LORA), directory))
    for file, tensors in (("adapter_model.safetensors", weights), ("optimizer.safetensors", state)):
        on_disk = load_file(directory / file)
        assert on_disk.keys() == tensors.keys()
        assert all(torch.equal(on_disk[name], tensors[name]) for name in tensors)
    assert torch.equal(state["step"], torch.full((28,), 4.0))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def flip_weights(directory: Path) -> None:
    flip(directory / "adapter_model.safetensors")


def flip_moments(directory: Path) -> None:
    flip(directory / "optimizer.safetensors")


def cut_weights(directory: Path) -> None:
    path = directory / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def lose_moments(directory: Path) -> None:
    (directory / "optimizer.safetensors").unlink()


def lose_manifest(directory: Path) -> None:
    (directory / MANIFEST).unlink()


def break_manifest(directory: Path) -> None:
    (directory / MANIFEST).write_bytes(b"{")


def add_a_file(directory: Path) -> None:
    (directory / "pytorch_model.bin").write_bytes(b"")


def take_another(directory: Path) -> None:
    path = directory / MANIFEST
    path.write_bytes(path.read_bytes().replace(b"attempt-0001", b"attempt-0009"))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (flip_weights, "adapter_model.safetensors does not have the SHA-256"),
        (flip_moments, "optimizer.safetensors does not have the SHA-256"),
        (cut_weights, "bytes, the manifest says"),
        (lose_moments, "optimizer.safetensors is missing"),
        (lose_manifest, "manifest.json is missing"),
        (break_manifest, "manifest.json is damaged"),
        (add_a_file, "pytorch_model.bin is not in the manifest"),
        (take_another, "manifest.json is that of step-00000004-attempt-0009"),
        (shutil.rmtree, "its directory is missing"),
    ],
)
def test_damage_on_disk_is_named(home: Home, damage: Callable[[Path], None], says: str) -> None:
    directory = trained(home, settings(LORA))
    damage(directory)
    with pytest.raises(CheckpointBroken) as broken:
        loaded(home, settings(LORA), directory)
    assert broken.value.checkpoint == directory.name
    assert says in broken.value.problem


A = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors: tensors.pop(A), f"lacks the tensor {A}"),
        (lambda tensors: tensors.update(more=torch.zeros(1)), "not trained: more"),
        (lambda tensors: tensors.update({A: tensors[A].T.contiguous()}), "(64, 4), not (4, 64)"),
        (lambda tensors: tensors.update({A: tensors[A].bfloat16()}), "BF16, not F32"),
        (lambda tensors: tensors[A].fill_(float("nan")), "not finite"),
    ],
)
def test_tensors_that_the_model_does_not_expect_are_named(
    home: Home, change: Callable[[Any], object], says: str
) -> None:
    """Even under a manifest that vouches for them."""
    directory = trained(home, settings(LORA))
    path = directory / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    manifest = read_manifest(directory)
    data = path.read_bytes()
    entry = FileEntry(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    vouched = msgspec.structs.replace(manifest, files={**manifest.files, path.name: entry})
    (directory / MANIFEST).write_bytes(vouched.encode())
    with pytest.raises(CheckpointBroken) as broken:
        loaded(home, settings(LORA), directory)
    assert says in broken.value.problem


def test_a_whole_checkpoint_of_another_shape_is_foreign_not_broken(home: Home) -> None:
    """It must not be thrown away because a person changed the settings."""
    directory = trained(home, settings(LORA))
    with pytest.raises(CheckpointForeign, match=f"{directory.name} .*: it has r=4, the settings say r=8"):
        loaded(home, settings(LoraSettings(r=8, dropout=0.1)), directory)


def snapshot_of(home: Home, how: Any) -> checkpoint.Snapshot:
    directory = trained(home, how)
    manifest = read_manifest(directory)
    weights, state = checkpoint.copy_state(*loaded(home, how, directory))
    return checkpoint.Snapshot(
        checkpoint=manifest.checkpoint,
        reason="end",
        cursor=manifest.cursor,
        lineage=manifest.lineage,
        environment={},
        weights_file="adapter_model.safetensors",
        weights=weights,
        optimizer=state,
        files={"adapter_config.json": b"{}"},
    )


def test_the_same_weights_are_the_same_bytes(home: Home, tmp_path: Path) -> None:
    snapshot = snapshot_of(home, settings(LORA))
    for place in ("one", "two"):
        checkpoint.write(tmp_path / place, snapshot, lambda done, total: None)
    one, two = (tmp_path / place / snapshot.checkpoint for place in ("one", "two"))
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in two.iterdir()
    }


def test_what_an_earlier_crash_left_under_the_staging_name_does_not_get_in(home: Home, tmp_path: Path) -> None:
    snapshot = snapshot_of(home, settings(LORA))
    staging = tmp_path / "here" / f".staging-{snapshot.checkpoint}"
    staging.mkdir(parents=True)
    (staging / "debris").write_bytes(b"half")
    checkpoint.write(tmp_path / "here", snapshot, lambda done, total: None)
    assert not (tmp_path / "here" / snapshot.checkpoint / "debris").exists()
    CheckpointDirectory(tmp_path / "here" / snapshot.checkpoint).verify()


def test_a_disk_that_cannot_be_written_is_storage_s_fault(home: Home, tmp_path: Path) -> None:
    snapshot = snapshot_of(home, settings(LORA))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageFailed):
        checkpoint.write(tmp_path / "file", snapshot, lambda done, total: None)


def test_no_room_for_the_weights_is_distinguished_from_a_broken_disk(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safetensors has the system's error in its text only."""

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    snapshot = snapshot_of(home, settings(LORA))
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(StorageFailed, match="No space left on device") as failed:
        checkpoint.write(tmp_path / "here", snapshot, lambda done, total: None)
    assert failed.value.errno == errno.ENOSPC


def test_a_checkpoint_that_does_not_fit_is_not_begun(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it would fill the disk for everybody."""
    snapshot = snapshot_of(home, settings(LORA))
    monkeypatch.setattr(checkpoint.REAL, "free_bytes", lambda path: 1_000)  # type: ignore[attr-defined]
    (tmp_path / "here").mkdir()
    with pytest.raises(StorageFailed, match=r"0\.0 MB are free, and the checkpoint has") as failed:
        checkpoint.write(tmp_path / "here", snapshot, lambda done, total: None)
    assert failed.value.errno == errno.ENOSPC
    assert not list((tmp_path / "here").iterdir())


def test_weights_that_are_not_numbers_are_never_written(home: Home, tmp_path: Path) -> None:
    snapshot = snapshot_of(home, settings(LORA))
    next(iter(snapshot.weights.values()))[0, 0] = float("inf")
    with pytest.raises(TrainingDiverged):
        checkpoint.write(tmp_path / "here", snapshot, lambda done, total: None)
    assert not (tmp_path / "here").exists()


def test_settings_survive_the_manifest(home: Home) -> None:
    how = settings(LORA, precision="bf16")
    directory = trained(home, how)
    assert read_manifest(directory).lineage.settings == how
    assert json.loads((directory / MANIFEST).read_bytes())["format"] == 1


def test_a_full_checkpoint_has_the_configs_of_its_base(tmp_path: Path) -> None:
    """Fields that nobody knows included; what must be otherwise is under its old and its new name."""
    model = make_tiny_model(tmp_path / "model", rope_theta=5e5)
    config = {**json.loads((model / "config.json").read_bytes()), "of_nobody": {"kept": 1}, "dtype": "bfloat16"}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (model / "generation_config.json").write_text('{"max_new_tokens":  7}', encoding="utf-8")
    directory = trained(Home(tmp_path), settings(FULL))
    said = json.loads((directory / "config.json").read_bytes())
    kind = {"dtype": "float32", "torch_dtype": "float32"}
    assert said == {**config, **kind, "rope_theta": 5e5, "rope_scaling": None}
    assert (directory / "generation_config.json").read_bytes() == b'{"max_new_tokens":  7}'
    assert AutoModelForCausalLM.from_pretrained(directory).config.rope_parameters["rope_theta"] == 5e5


def test_a_checkpoint_has_the_tokenizer_files_of_its_base(tmp_path: Path) -> None:
    """Each is in the manifest, those in the subdirectory of templates too."""
    model = make_tiny_model(tmp_path / "model")
    (model / CHAT_TEMPLATES).mkdir()
    (model / CHAT_TEMPLATES / "tool_use.jinja").write_text(PLAIN_TEMPLATE, encoding="utf-8")
    directory = trained(Home(tmp_path), settings(LORA))
    own = tokenizer_files(model)
    assert tokenizer_files(directory) == own
    entries = CheckpointDirectory(directory).verify().files
    assert {name: entries[name].sha256 for name in own} == {
        name: hashlib.sha256(content).hexdigest() for name, content in own.items()
    }
    assert set(AutoTokenizer.from_pretrained(directory).chat_template) == {"default", "tool_use"}
