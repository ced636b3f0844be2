"""A checkpoint as a separate model: ordinary, whole, and one that answers as base and checkpoint did."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from events.settings import JobSettings, ModelSettings
from events.values import Dtype
from gpu.artifacts.artifact import CheckpointDirectory
from gpu.artifacts.commit import STAGING
from gpu.artifacts.manifest import MANIFEST, describe, read_manifest
from gpu.artifacts.version_manifest import VERSION_MANIFEST
from gpu.errors import CheckpointBroken, MergeRefused, ModelUnusable, WorkerError
from gpu.ipc.protocol import Exported, ExportRequest, Refusal
from gpu.model.base import base_directory
from gpu.model.files import tokenizer_files, tokenizer_names
from gpu.versions import export as exporting
from gpu.versions import merged_model as merging
from gpu.versions.export import export
from gpu.versions.logit_check import TOLERANCE, Reference, logit_distance
from tests.gpu.helpers import FULL, LORA, QLORA, Home, settings
from tests.harness.tiny_model import MARKED_TEMPLATE, make_rows, make_tiny_model


@pytest.fixture(scope="module", params=["lora", "qlora", "full"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str]:
    """A home that has trained, and its checkpoint."""
    return trained_home(
        tmp_path_factory.mktemp(request.param), {"lora": LORA, "qlora": QLORA, "full": FULL}[request.param]
    )


def trained_home(path: Path, method: Any, **how: Any) -> tuple[Home, str]:
    home = Home(path)
    if not (path / "model").exists():
        make_tiny_model(path / "model")
    home.train_job(home.new_session(), home.add(make_rows(6)), settings(method, **how))
    (checkpoint,) = [directory.name for directory in (path / "checkpoints").iterdir()]
    return home, checkpoint


def order(home: Home, checkpoint: str, target: Path, dtype: Dtype | None = None) -> ExportRequest:
    directory = home.path / "checkpoints" / checkpoint
    return ExportRequest(home=str(home.path), checkpoint=str(directory), target=str(target), dtype=dtype)


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16", "float16"])
def test_plain_transformers_loads_it_and_it_answers_as_base_and_checkpoint_did(
    trained: tuple[Home, str], tmp_path: Path, dtype: Dtype | None
) -> None:
    exported = export(order(*trained, tmp_path / "out", dtype))
    assert exported.difference <= exported.tolerance / 4
    assert exported.applied == pytest.approx(1.0, abs=0.02)
    model, found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(found[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == getattr(torch, dtype or "float32")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(trained[0].path / "model").chat_template
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    made = json.loads((tmp_path / "out" / VERSION_MANIFEST).read_text(encoding="utf-8"))
    for name, entry in made["files"].items():
        assert sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == entry["sha256"]
    assert made["files"].keys() == {path.name for path in (tmp_path / "out").iterdir()} - {VERSION_MANIFEST}


def test_training_changes_the_logits_more_than_the_check_tolerates(trained: tuple[Home, str], tmp_path: Path) -> None:
    """Else a merge that forgot everything would pass too."""
    home, checkpoint = trained
    export(order(home, checkpoint, tmp_path / "out"))
    base = home.path / "model"
    assert logit_distance(tmp_path / "out", Reference(base)) > TOLERANCE["BF16"]


def test_a_base_that_was_moved_is_found_by_its_bytes(tmp_path: Path) -> None:
    """Where the request says that it is now; a model with other bytes there is not taken for it."""
    home, checkpoint = trained_home(tmp_path, LORA)
    (home.path / "model").rename(home.path / "moved")
    make_tiny_model(home.path / "other", seed=9)
    moved = replace(order(home, checkpoint, tmp_path / "out"), model=ModelSettings(path="moved"))
    exported = export(moved)
    assert exported.difference <= exported.tolerance / 4
    for place in (None, ModelSettings(path="other")):
        with pytest.raises((MergeRefused, ModelUnusable), match="model"):
            export(replace(moved, model=place, target=str(tmp_path / "wrong")))


def test_a_model_in_many_files_stays_one(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "whole")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "model", max_shard_size="30KB")
    AutoTokenizer.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "model")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 2
    exported = export(order(*trained_home(tmp_path, LORA), tmp_path / "out"))
    assert exported.difference <= exported.tolerance / 4
    names = [{path.name for path in (tmp_path / place).glob("model*")} for place in ("model", "out")]
    assert names[0] == names[1]


def merge_wrongly(monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change what is merged before anybody looks at it."""
    write = merging.write_merged  # type: ignore[attr-defined]

    def wrong(file: Any, target: Path, **how: Any) -> None:
        write(file, target, **how)
        tensors = load_file(target)
        change(tensors)
        save_file(tensors, target, {"format": "pt"})

    monkeypatch.setattr(merging, "write_merged", wrong)


def test_a_merge_that_is_wrong_gets_no_name(
    trained: tuple[Home, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def louder(tensors: dict[str, torch.Tensor]) -> None:
        for tensor in tensors.values():
            tensor.mul_(1.5)

    merge_wrongly(monkeypatch, louder)
    with pytest.raises(MergeRefused, match="does not predict what base and checkpoint predict"):
        export(order(*trained, tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_a_merge_that_lacks_a_weight_gets_no_name(
    trained: tuple[Home, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge_wrongly(monkeypatch, lambda tensors: tensors.__delitem__("model.norm.weight"))
    with pytest.raises(MergeRefused, match=r"model\.norm\.weight is among its missing keys"):
        export(order(*trained, tmp_path / "out"))


def test_a_writer_that_was_killed_is_in_nobodys_way(trained: tuple[Home, str], tmp_path: Path) -> None:
    left = tmp_path / f"{STAGING}out"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    export(order(*trained, tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_damaged_checkpoint_another_base_and_a_quantised_one_are_refused(tmp_path: Path) -> None:
    home, checkpoint = trained_home(tmp_path, LORA)
    target = tmp_path / "out"
    config = tmp_path / "model" / "config.json"
    before = config.read_bytes()
    config.write_bytes(before + b" ")
    with pytest.raises(MergeRefused, match="the base model at model is not the one"):
        export(order(home, checkpoint, target))
    config.write_bytes(msgspec.json.encode({**msgspec.json.decode(before), "quantization_config": {"bits": 4}}))
    directory = home.path / "checkpoints" / checkpoint
    sources = merging.Sources(
        origin=tmp_path / "model",
        origin_sha256="",
        parent=None,
        trained=(directory,),
        tokenizer=directory,
        manifest=CheckpointDirectory(directory).verify(),
        reference=Reference(tmp_path / "model"),
    )
    with pytest.raises(MergeRefused, match="nothing is merged into quantized weights"):
        merging._small_files(sources, "F32", untied=False)
    weights = directory / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointBroken, match="does not have the SHA-256 of the manifest"):
        export(order(home, checkpoint, target))
    assert not target.exists()


def test_it_is_a_command_that_answers_in_one_line_whatever_happens(
    trained: tuple[Home, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    answer: Any = msgspec.json.Decoder(Exported | Refusal)
    for wanted, says in (
        (order(*trained, tmp_path / "out"), Exported),
        (order(*trained, tmp_path / "out"), Refusal),
        (order(trained[0], "nothing", tmp_path / "other"), Refusal),
    ):
        monkeypatch.setattr("sys.argv", ["gpu.versions.export", msgspec.json.encode(wanted).decode()])
        exporting.main()
        assert isinstance(answer.decode(capfd.readouterr().out), says)


def test_where_the_base_is_is_what_the_settings_say(tmp_path: Path) -> None:
    home = Home(tmp_path)
    make_tiny_model(tmp_path / "model")
    how = JobSettings(model=ModelSettings(path="model"))
    assert base_directory(how.model.path, home.path) == tmp_path / "model"
    with pytest.raises(WorkerError, match="there is no model at"):
        base_directory("./nowhere", home.path)


def test_a_full_disk_is_reported_and_nothing_is_left(
    trained: tuple[Home, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(merging, "write_merged", full)
    wanted = msgspec.json.encode(order(*trained, tmp_path / "out")).decode()
    monkeypatch.setattr("sys.argv", ["gpu.versions.export", wanted])
    exporting.main()
    answer = msgspec.json.decode(capfd.readouterr().out, type=Refusal)
    assert answer.storage
    assert "No space left on device" in answer.problem
    assert not list(tmp_path.iterdir())


def as_an_earlier_keepstep_kept_it(directory: Path) -> None:
    """The tokenizer as transformers 5 writes it, under a manifest that says so."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    before = tokenizer_names(directory)
    for name in before:
        (directory / name).unlink()
    tokenizer.save_pretrained(directory)
    manifest = read_manifest(directory)
    files = {name: entry for name, entry in manifest.files.items() if name not in before}
    files |= {name: describe(directory / name) for name in tokenizer_names(directory)}
    (directory / MANIFEST).write_bytes(replace(manifest, files=files).encode())


def test_the_tokenizer_is_that_of_the_base_byte_for_byte(tmp_path: Path) -> None:
    """Of a checkpoint that keeps it in the words of transformers 5, too: the two are proved to be the same."""
    model = make_tiny_model(tmp_path / "model")
    config = {
        **json.loads((model / "tokenizer_config.json").read_bytes()),
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (model / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    home, checkpoint = trained_home(tmp_path, LORA)
    directory = home.directory(checkpoint)
    as_an_earlier_keepstep_kept_it(directory)
    assert tokenizer_files(directory) != tokenizer_files(model)
    export(order(home, checkpoint, tmp_path / "out"))
    assert tokenizer_files(tmp_path / "out") == tokenizer_files(model)


def test_a_tokenizer_that_was_changed_since_is_not_taken_for_that_of_the_training(tmp_path: Path) -> None:
    """A template that was added to the base later, next to unchanged files: the model never saw it."""
    home, checkpoint = trained_home(tmp_path, LORA)
    trained_with = tokenizer_files(home.directory(checkpoint))
    (tmp_path / "model" / "chat_template.jinja").write_text(MARKED_TEMPLATE, encoding="utf-8")
    export(order(home, checkpoint, tmp_path / "out"))
    assert tokenizer_files(tmp_path / "out") == trained_with


def test_a_file_of_the_base_that_is_none_of_it_is_not_exported(tmp_path: Path) -> None:
    home, checkpoint = trained_home(tmp_path, LORA)
    (tmp_path / "secret").write_bytes(b"{}")
    (tmp_path / "model" / "generation_config.json").unlink()
    (tmp_path / "model" / "generation_config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelUnusable, match=r"generation_config.json is a link to .*secret"):
        export(order(home, checkpoint, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
