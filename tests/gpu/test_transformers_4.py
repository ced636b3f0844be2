"""What keepstep writes is the same model in transformers 4, which knows the fields of a config by their old names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from events.messages import Consolidate
from gpu.ipc.protocol import ExportRequest
from gpu.model.files import CHAT_TEMPLATES
from gpu.versions.consolidate import consolidate
from gpu.versions.export import export
from tests.gpu.helpers import FULL, LORA, FakeChannel, Home, settings
from tests.harness.tiny_model import PLAIN_TEMPLATE, make_rows, make_tiny_model
from tests.harness.transformers_4 import asked_of_transformers_4

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

TEXT = "What is 4 and 2? <|end|>\n"
IDS = list(range(6, 102))
"""Far enough into the sequence for the base frequency of the rotary positions to show."""

SCALED = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 500_000.0,
}


def new_names(model: Path) -> None:
    """As transformers 5 writes a config."""
    assert "rope_theta" not in json.loads((model / "config.json").read_bytes())


def old_names(model: Path) -> None:
    """As transformers 4 wrote it, with a field that nobody knows."""
    config = json.loads((model / "config.json").read_bytes())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["torch_dtype"] = config.pop("dtype")
    config = {**config, "rope_scaling": rope, "transformers_version": "4.44.0", "of_nobody": {"kept": [1]}}
    (model / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def base(directory: Path, spelling: Callable[[Path], None]) -> Path:
    """A model whose tokenizer transformers 4 loads, with a second chat template."""
    model = make_tiny_model(directory, rope_parameters=SCALED, tie_word_embeddings=False, initializer_range=0.3)
    spelling(model)
    path = model / "tokenizer_config.json"
    config = {**json.loads(path.read_bytes()), "tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(config), encoding="utf-8")
    (model / CHAT_TEMPLATES).mkdir()
    (model / CHAT_TEMPLATES / "tool_use.jinja").write_text(PLAIN_TEMPLATE, encoding="utf-8")
    return model


def ours(model: Path, adapter: Path | None = None) -> torch.Tensor:
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if adapter is not None:
        loaded = PeftModel.from_pretrained(loaded, adapter)
    with torch.no_grad():
        logits: torch.Tensor = loaded.eval()(input_ids=torch.tensor([IDS])).logits
    return logits


def is_the_same_there(model: Path, scratch: Path, adapter: Path | None = None) -> dict[str, Any]:
    """Ask both. The two sum in another order, so their logits differ by the rounding of float32."""
    said = asked_of_transformers_4(model, IDS, TEXT, scratch / "theirs.safetensors", adapter)
    assert said["version"].startswith("4.57")
    assert said["tokenizer"] == "PreTrainedTokenizerFast"
    tokenizer = AutoTokenizer.from_pretrained(adapter or model)
    assert said["ids"] == tokenizer(TEXT)["input_ids"]
    assert said["said"] == tokenizer.apply_chat_template(
        [{"role": "user", "content": "a"}], tokenize=False, add_generation_prompt=True
    )
    assert said["templates"] == ["default", "tool_use"]
    assert (said["missing"], said["unexpected"]) == ([], [])
    torch.testing.assert_close(load_file(scratch / "theirs.safetensors")["logits"], ours(model, adapter))
    config: dict[str, Any] = said["config"]
    return config


@pytest.mark.parametrize("spelling", [new_names, old_names])
@pytest.mark.parametrize("method", [LORA, FULL], ids=["lora", "full"])
def test_transformers_4_loads_what_was_trained(tmp_path: Path, method: Any, spelling: Callable[[Path], None]) -> None:
    """A checkpoint, the version made of it, and an export."""
    model = base(tmp_path / "model", spelling)
    home = Home(tmp_path)
    how = settings(method, learning_rate=0.05)
    checkpoint = home.train_job(home.new_session(), home.add(make_rows(8)), how)
    directory = home.directory(checkpoint)
    if method is FULL:
        is_the_same_there(directory, tmp_path)
    elif spelling is old_names:  # with new ones, the base itself is another model there
        is_the_same_there(model, tmp_path, adapter=directory)
    order = Consolidate(
        attempt=9,
        version="v001",
        parent=None,
        checkpoint=checkpoint,
        backup="before-v001-attempt-0009",
        description="",
        files=(),
        space_factor=1.0,
    )
    consolidate(home.path, order, FakeChannel())
    version = home.path / "versions" / "v001"
    config = is_the_same_there(version, tmp_path)
    assert config["rope_theta"] == 500_000.0
    assert config["rope_scaling"]["factor"] == 4.0
    export(ExportRequest(home=str(home.path), target=str(tmp_path / "out"), checkpoint=str(directory), dtype="float32"))
    is_the_same_there(tmp_path / "out", tmp_path)
    assert not torch.allclose(ours(version), ours(model), atol=1e-3)
    for name in ("tokenizer.json", "tokenizer_config.json", f"{CHAT_TEMPLATES}/tool_use.jinja"):
        for place in (directory, version, tmp_path / "out"):
            assert (place / name).read_bytes() == (model / name).read_bytes()
