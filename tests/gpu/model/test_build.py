"""Building the model that is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from events.settings import LoraSettings
from gpu.errors import ModelUnusable
from gpu.model import build as model_module
from gpu.model.base import model_location
from gpu.model.build import build
from gpu.runtime.determinism import environment
from gpu.training.collate import Inputs
from tests.gpu.helpers import FULL, LORA, QLORA, Home, settings
from tests.harness.hub_cache import put_in_cache
from tests.harness.tiny_model import make_tiny_model

CPU = torch.device("cpu")


def test_the_seed_decides_what_lora_begins_with_and_nothing_else_does(home: Home) -> None:
    def begins(seed: int) -> list[torch.Tensor]:
        torch.rand(3)
        return list(build(settings(LORA, seed=seed), home.path, CPU).parameters.values())

    one, same, other = begins(1), begins(1), begins(2)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_what_is_trained_is_float32_whatever_the_base_is(home: Home) -> None:
    for method in (LORA, QLORA, FULL):
        how = settings(method)
        how = msgspec.structs.replace(how, model=msgspec.structs.replace(how.model, dtype="bfloat16"))
        trained = build(how, home.path, CPU)
        assert {parameter.dtype for parameter in trained.parameters.values()} == {torch.float32}


def test_logits_of_some_positions_are_those_of_all(home: Home) -> None:
    trained = build(settings(FULL), home.path, CPU)
    assert trained.takes_columns
    ids = torch.arange(6, 26).reshape(2, 10)
    inputs = Inputs(ids, torch.ones_like(ids), torch.tensor([2, 5, 9]), ids, ids, ids)
    some = trained.logits(inputs)
    trained.takes_columns = False
    torch.testing.assert_close(some, trained.logits(inputs))


def test_a_relative_path_starts_at_the_home_and_a_hub_id_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    assert model_location("here", tmp_path) == str(tmp_path / "here")
    assert model_location(str(tmp_path / "here"), Path("/")) == str(tmp_path / "here")
    assert model_location("owner/name", tmp_path) == "owner/name"
    for path in ("./nowhere", "/nowhere", "~/nowhere-at-all"):
        with pytest.raises(ModelUnusable):
            model_location(path, tmp_path)


def test_target_modules_that_the_model_has_not_are_refused(home: Home) -> None:
    with pytest.raises(ModelUnusable, match="target_modules"):
        build(settings(LoraSettings(target_modules=("no_such_layer",))), home.path, CPU)


def test_chosen_target_modules_are_the_only_ones(home: Home) -> None:
    trained = build(settings(LoraSettings(r=2, target_modules=("q_proj", "v_proj"))), home.path, CPU)
    assert {name.split(".")[-3] for name in trained.parameters} == {"q_proj", "v_proj"}


def damaged(path: Path, change: Any) -> Home:
    file = make_tiny_model(path / "model") / "model.safetensors"
    change(file)
    return Home(path)


def lose_a_tensor(file: Path) -> None:
    tensors = load_file(file)
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lose_a_tensor, "model.layers.1.mlp.up_proj.weight is missing"),
        (lambda file: file.write_bytes(b"not weights"), "has a damaged model.safetensors"),
        (Path.unlink, "has no weights as safetensors"),
    ],
)
def test_a_model_with_a_gap_is_refused_not_filled_with_random_numbers(tmp_path: Path, change: Any, says: str) -> None:
    home = damaged(tmp_path, change)
    with pytest.raises(ModelUnusable, match=says):
        build(settings(LORA), home.path, CPU)


def test_nothing_is_trained_in_less_than_float32(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small steps would be rounded away; whatever a library thinks best, it is refused."""
    real = model_module._with_lora

    def halved(*arguments: Any) -> Any:
        trained = real(*arguments)
        name, parameter = next(iter(trained.parameters.items()))
        trained.parameters[name] = torch.nn.Parameter(parameter.detach().to(torch.bfloat16))
        return trained

    monkeypatch.setattr(model_module, "_with_lora", halved)
    with pytest.raises(ModelUnusable, match=r"would be trained in torch\.bfloat16"):
        build(settings(LORA), home.path, CPU)


def test_a_buffer_that_no_checkpoint_can_store_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is trained, not at the first checkpoint."""
    real = model_module.load_weights

    def with_buffer(*arguments: Any) -> Any:
        model = real(*arguments)
        model.register_buffer("waves", torch.zeros(2, dtype=torch.complex64))
        return model

    monkeypatch.setattr(model_module, "load_weights", with_buffer)
    with pytest.raises(ModelUnusable, match=r"waves holds torch\.complex64, which a checkpoint cannot store"):
        build(settings(FULL), home.path, CPU)


def test_a_base_that_is_quantised_on_disk_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    """Not weeks later, when the adapter is to become a version."""
    config = make_tiny_model(tmp_path / "model") / "config.json"
    arguments = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**arguments, "quantization_config": {"bits": 4}}), encoding="utf-8")
    with pytest.raises(ModelUnusable, match="is quantized on disk"):
        build(settings(LORA), tmp_path, CPU)


def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model as the hub's cache has it (`org/name`), and no connection."""
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return put_in_cache(tmp_path / "hf" / "hub", "org/name", "a" * 40, make_tiny_model(tmp_path / "made"))


def of_the_hub() -> Any:
    how = settings(LORA)
    return msgspec.structs.replace(how, model=msgspec.structs.replace(how.model, path="org/name"))


def test_model_of_the_hub_is_judged_by_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a directory is: an adapter next to its weights is refused, and so are missing weights."""
    snapshot = cached(tmp_path, monkeypatch)
    assert build(of_the_hub(), tmp_path, CPU).parameters
    (snapshot / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelUnusable, match="hf download org/name --local-dir"):
        build(of_the_hub(), tmp_path, CPU)
    (snapshot / "adapter_config.json").unlink()
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(ModelUnusable, match="has no weights as safetensors"):  # no hub to fetch it from
        build(of_the_hub(), tmp_path, CPU)


def test_code_that_comes_with_a_model_is_refused_with_the_setting_that_leaves_it_out(tmp_path: Path) -> None:
    config = make_tiny_model(tmp_path / "model") / "config.json"
    arguments = json.loads(config.read_bytes())
    config.write_text(json.dumps({**arguments, "auto_map": {"AutoModelForCausalLM": "mine.Model"}}), encoding="utf-8")
    how = settings(LORA)
    trusted = msgspec.structs.replace(how, model=msgspec.structs.replace(how.model, trust_remote_code=True))
    with pytest.raises(ModelUnusable, match=r"Set \[model\] trust_remote_code = false"):
        build(trusted, tmp_path, CPU)
    build(how, tmp_path, CPU)


def test_qlora_says_what_is_to_be_installed_for_it(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "find_spec", lambda _: None)
    with pytest.raises(ModelUnusable, match=r"pip install 'keepstep\[qlora\]'"):
        build(settings(QLORA), home.path, CPU)


def test_the_library_of_four_bits_is_among_what_decides_the_bits(home: Home) -> None:
    """So that a resume under another one says so."""
    assert build(settings(QLORA), home.path, CPU).libraries == ("bitsandbytes",)
    assert build(settings(LORA), home.path, CPU).libraries == ()
    assert "bitsandbytes" in environment(CPU, ("bitsandbytes",))


def test_lora_on_a_head_that_shares_its_tensor_with_the_embedding_is_refused(tmp_path: Path) -> None:
    """With settings that work."""
    make_tiny_model(tmp_path / "model", tie_word_embeddings=True)
    for target in ("lm_head", "embed_tokens"):
        how = settings(LoraSettings(r=2, target_modules=(target, "q_proj")))
        with pytest.raises(ModelUnusable, match=r'are tied.*Set \[method\] target_modules = \["q_proj"\]'):
            build(how, tmp_path, CPU)
    build(settings(LoraSettings(r=2, target_modules=("q_proj",))), tmp_path, CPU)
