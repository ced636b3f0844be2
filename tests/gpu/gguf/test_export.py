"""GGUF files of a tiny model, in llama.cpp itself: a file that does not answer as the model does gets no name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gpu.artifacts.artifact import CheckpointDirectory
from gpu.artifacts.commit import STAGING
from gpu.errors import PreflightFailed
from gpu.gguf import export as exporting
from gpu.gguf.export import export_gguf
from gpu.gguf.parts import parts_of
from gpu.gguf.proof import ProofFailed
from gpu.ipc.protocol import ExportGguf, ExportRequest, Quantization, encode_request
from journal.storage import REAL
from tests.gpu.helpers import LORA, Home
from tests.gpu.versions.test_export import trained_home
from tests.waiting import eventually

pytest.importorskip("xllamacpp", reason="make test-gguf installs it")
pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str]:
    """A home that has trained a model that llama.cpp's converter knows, and its checkpoint."""
    from tests.harness.gguf_model import make_gguf_model

    path = tmp_path_factory.mktemp("gguf")
    make_gguf_model(path / "model")
    return trained_home(path, LORA)


def order(trained: tuple[Home, str], target: Path, quantization: Quantization = "f16") -> ExportGguf:
    home, checkpoint = trained
    directory = home.path / "checkpoints" / checkpoint
    model = ExportRequest(home=str(home.path), checkpoint=str(directory), target=str(target), dtype=None)
    settings = CheckpointDirectory(directory).read().lineage.settings.model
    return ExportGguf(
        model=replace(model, model=settings), name="head-f16", quantization=quantization, system="Be brief."
    )


def test_file_and_modelfile_are_written_and_answer_as_the_model_does(trained: tuple[Home, str], tmp_path: Path) -> None:
    exported = export_gguf(order(trained, tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"head-f16.gguf", "Modelfile", "keepstep.json"}
    file = tmp_path / "out" / exported.file
    assert file.read_bytes()[:4] == b"GGUF"
    for private in (b"base_model", str(trained[0].path).encode()):  # the card names the base's place on this machine
        assert private not in file.read_bytes()
    assert (exported.size_bytes, exported.sha256) == (file.stat().st_size, sha256(file.read_bytes()).hexdigest())
    assert exported.proof.prompts == 5
    assert exported.proof.agreement > 0.95
    assert exported.stops == ("<fin>",)
    lines = (tmp_path / "out" / "Modelfile").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "FROM ./head-f16.gguf"
    assert lines[-2:] == ['PARAMETER stop "<fin>"', 'SYSTEM """Be brief."""']
    made = json.loads((tmp_path / "out" / "keepstep.json").read_bytes())
    assert made["source"] == trained[1]
    assert made["files"]["head-f16.gguf"]["sha256"] == exported.sha256
    assert not list(tmp_path.glob(f"{STAGING}*"))


@pytest.mark.parametrize("quantization", ["q8_0", "q4_k_m"])
def test_quantized_files_are_proved_with_their_own_tolerance(
    trained: tuple[Home, str], tmp_path: Path, quantization: Quantization
) -> None:
    exported = export_gguf(order(trained, tmp_path / "out", quantization))
    assert exported.proof.distance <= exported.proof.tolerance
    assert exported.quantization == quantization


Change = Callable[[Path], None]


def spoil_model(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """Convert a copy of the model that `change` was applied to."""
    make_file = exporting._make_file

    def wrong(order: ExportGguf, model: Path, parts: Path) -> Path:
        copy = parts / "spoiled"
        shutil.copytree(model, copy)
        change(copy)
        return make_file(order, copy, parts)

    monkeypatch.setattr(exporting, "_make_file", wrong)


def edit(name: str, **values: Any) -> Change:
    def change(model: Path) -> None:
        path = model / name
        path.write_text(json.dumps({**json.loads(path.read_bytes()), **values}), encoding="utf-8")

    return change


def other_template(model: Path) -> None:
    for path in model.glob("chat_template*"):
        path.unlink()
    template = "{% for message in messages %}{{ message['content'] }}<fin>{% endfor %}<|assistant|>"
    edit("tokenizer_config.json", chat_template=template)(model)


def other_end(model: Path) -> None:
    """Llama.cpp does not know that <fin> ends an answer."""
    edit("tokenizer_config.json", eos_token="</s>")(model)
    edit("config.json", eos_token_id=2)(model)
    edit("generation_config.json", eos_token_id=2)(model)


def other_weights(model: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.0.mlp.down_proj.weight"] *= -1
    save_file(tensors, model / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (other_template, "chat template or the tokenizer in the file is wrong"),
        (other_end, "does not stop at '<fin>'"),
        (other_weights, "does not answer as transformers does"),
    ],
)
def test_file_that_is_wrong_gets_no_name(
    trained: tuple[Home, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change, says: str
) -> None:
    spoil_model(monkeypatch, change)
    with pytest.raises(ProofFailed, match=says):
        export_gguf(order(trained, tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_disk_that_is_too_small_is_refused_before_anything_is_written(
    trained: tuple[Home, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(REAL), "free_bytes", lambda _self, _path: 100_000_000)
    with pytest.raises(PreflightFailed, match=r"has 0\.1 GB free"):
        export_gguf(order(trained, tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_export_that_was_killed_leaves_no_name_and_can_run_again(trained: tuple[Home, str], tmp_path: Path) -> None:
    wanted = order(trained, tmp_path / "out")
    command = [sys.executable, "-P", "-m", "gpu.gguf.export", encode_request(wanted)]
    killed = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    eventually(lambda: any(parts_of(tmp_path / "out").glob("*.gguf")), within_s=200.0)
    killed.kill()
    killed.wait()
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == [parts_of(tmp_path / "out").name]
    export_gguf(wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
