"""What is trained can become a version, or is refused before the first step with settings that work."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from events.messages import Merged
from events.settings import FullSettings, LoraSettings
from gpu.errors import MergeRefused, ModelUnusable, YieldRequested
from gpu.model.build import TrainedModel, build
from gpu.versions import merge, rehearsal
from gpu.versions.rehearsal import Rehearsal, rehearse
from tests.gpu.helpers import FULL, LORA, QLORA, Home, settings
from tests.gpu.model.test_layout import rewritten, without
from tests.gpu.versions.test_consolidate import Nights
from tests.harness.architectures import ARCHITECTURES, make_model
from tests.harness.tiny_model import make_rows, make_tiny_model

CPU = torch.device("cpu")
LORA4 = LoraSettings(r=4)
DORA = LoraSettings(r=4, use_dora=True)
METHODS = {"lora": LORA4, "dora": DORA, "full": FULL}
WAYS = pytest.mark.parametrize("whole_bytes", [rehearsal.WHOLE_BYTES, 0], ids=["whole", "by layer"])


def rehearsed(home: Path, method: Any) -> tuple[TrainedModel, Rehearsal]:
    how = settings(method)
    trained = build(how, home, CPU)
    return trained, rehearse(trained, how, home, None, {})


def advised(method: Any, message: str) -> Any:
    """The settings that the message of a refusal tells to use, taken literally."""
    found = re.search(r"Set \[method\] (\w+ = .+?) in keepstep\.toml", message)
    assert found, message
    wanted = tomllib.loads(found[1])
    if "kind" in wanted:
        return {"lora": LORA4}[wanted["kind"]]
    return msgspec.convert({**msgspec.to_builtins(method), **wanted}, LoraSettings)


def sound(home: Path, method: Any) -> Any:
    """The method, or the one that is advised in its place, that passes."""
    for _ in range(3):
        try:
            rehearsed(home, method)
        except ModelUnusable as error:
            method = advised(method, str(error))
        else:
            return method
    raise AssertionError("the advice was followed twice and refused again")


def same_model(home: Path, version: str, checkpoint: Path, method: Any) -> float:
    """How far the version's logits are from the checkpoint's, both loaded by plain transformers and peft."""
    ids = torch.arange(5, 29)[None]
    theirs = AutoModelForCausalLM.from_pretrained(home / "versions" / version).eval()
    if isinstance(method, FullSettings):
        ours = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    else:
        ours = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(home / "model"), checkpoint).eval()
    with torch.inference_mode():
        one, other = theirs(input_ids=ids).logits, ours(input_ids=ids).logits
    return float((one - other).norm() / other.norm())


def becomes_a_version(home: Path, method: Any) -> Nights:
    """Train a file and make a version of it; it is the checkpoint's model."""
    nights = Nights(home, method)
    checkpoint = nights.train_job()
    kept = home / "kept" / checkpoint
    kept.parent.mkdir()
    (home / "checkpoints" / checkpoint).rename(kept)
    (home / "checkpoints" / checkpoint).symlink_to(kept)
    night = nights.consolidated(checkpoint)
    assert night.fact(Merged).applied == pytest.approx(1.0, abs=0.01)
    assert same_model(home, night.version, kept, method) < 1e-5
    return nights


@pytest.mark.parametrize(
    ("architecture", "method"),
    [("gpt2", LORA4), ("gpt_neox", FULL), ("apertus", FULL), ("gemma4_text", FULL), ("mixtral", LORA4)],
)
def test_an_architecture_with_its_own_layout_becomes_a_version(tmp_path: Path, architecture: str, method: Any) -> None:
    make_model(tmp_path / "model", architecture)
    becomes_a_version(tmp_path, sound(tmp_path, method))


@pytest.mark.long
@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_becomes_a_version_or_is_refused_with_settings_that_do(
    tmp_path: Path, architecture: str, kind: str
) -> None:
    make_model(tmp_path / "model", architecture)
    becomes_a_version(tmp_path, sound(tmp_path, METHODS[kind]))


def with_extra(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**tensors, "h.0.attn.masked_bias": torch.tensor(-1e4), "extra.weight": torch.zeros(3)}


@pytest.mark.parametrize("method", [LORA4, FULL], ids=["lora", "full"])
@pytest.mark.parametrize(
    ("architecture", "change", "config"),
    [
        ("gpt2", without("transformer."), {}),
        ("llama", without("model."), {"tie_word_embeddings": True}),
        ("llama", with_extra, {}),
    ],
    ids=["GPT-2 of the hub", "saved without model.", "tensors that the model has not"],
)
def test_files_under_other_names_become_a_version(
    tmp_path: Path, architecture: str, change: Callable[..., Any], config: dict[str, Any], method: Any
) -> None:
    rewritten(make_model(tmp_path / "model", architecture, **config), change)
    becomes_a_version(tmp_path, method)


def test_an_adapter_on_the_embedding_has_peft_s_names_and_becomes_a_version(tmp_path: Path) -> None:
    make_model(tmp_path / "model", "llama")
    nights = becomes_a_version(tmp_path, LoraSettings(r=4, target_modules=("embed_tokens", "q_proj")))
    (kept,) = (tmp_path / "kept").iterdir()
    assert "base_model.model.model.embed_tokens.lora_embedding_A" in load_file(kept / "adapter_model.safetensors")
    assert nights.weights("v001")["model.embed_tokens.weight"].shape[1] == 32


def test_a_head_that_the_config_ties_and_the_file_holds_is_untied_in_the_version(tmp_path: Path) -> None:
    """Transformers 4 would load the embedding in its place, whatever was trained."""
    base = make_model(tmp_path / "model", "llama", tie_word_embeddings=True)
    head = {"lm_head.weight": load_file(base / "model.safetensors")["model.embed_tokens.weight"].clone()}
    rewritten(base, lambda tensors: {**tensors, **head})
    nights = becomes_a_version(tmp_path, LoraSettings(r=4, target_modules=("lm_head",)))
    config = json.loads((tmp_path / "versions" / "v001" / "config.json").read_bytes())
    made = nights.weights("v001")
    assert config["tie_word_embeddings"] is False
    assert not torch.equal(made["lm_head.weight"], made["model.embed_tokens.weight"])
    becomes = nights.night()  # the next one is trained on the untied version
    assert becomes.version == "v002"


def test_a_model_that_stays_tied_is_tied_in_the_version(tmp_path: Path) -> None:
    make_model(tmp_path / "model", "llama", tie_word_embeddings=True)
    becomes_a_version(tmp_path, LORA4)
    assert json.loads((tmp_path / "versions" / "v001" / "config.json").read_bytes())["tie_word_embeddings"] is True


@pytest.mark.parametrize("architecture", ["apertus", "gemma4_text"])
def test_buffers_are_part_of_a_full_checkpoint_and_of_its_version(tmp_path: Path, architecture: str) -> None:
    """Bit for bit: without them, plain transformers would load what the architecture begins with."""
    base = make_model(tmp_path / "model", architecture)
    nights = Nights(tmp_path, FULL)
    nights.settings = settings(FULL, learning_rate=1e-9)
    checkpoint = tmp_path / "checkpoints" / nights.train_job()
    at_first = AutoModelForCausalLM.from_pretrained(base)
    trained = AutoModelForCausalLM.from_pretrained(checkpoint)
    buffers = {name for name, _ in at_first.named_buffers()} & at_first.state_dict().keys()
    assert buffers
    for name, tensor in trained.state_dict().items():
        torch.testing.assert_close(tensor, at_first.state_dict()[name], rtol=1e-5, atol=1e-6)
    nights.consolidated(checkpoint.name)
    version = AutoModelForCausalLM.from_pretrained(tmp_path / "versions" / "v001")
    for name in buffers:
        assert torch.equal(version.state_dict()[name], at_first.state_dict()[name])


@WAYS
@pytest.mark.parametrize("method", [LORA, DORA, QLORA, FULL], ids=lambda method: type(method).__name__)
def test_a_merge_that_is_not_peft_s_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_bytes: int, method: Any
) -> None:
    """Whichever way is taken: a change that is lost, or scaled by two, is seen before the first step."""
    make_tiny_model(tmp_path / "model")
    monkeypatch.setattr(rehearsal, "WHOLE_BYTES", whole_bytes)

    def doubled(self: Any, name: str, rows: merge.RowRange, found: torch.Tensor) -> merge.MergedBlock | None:
        made = real(self, name, rows, found)
        return made._replace(value=made.value + made.delta) if made and name.endswith("q_proj.weight") else made

    kind = merge.FullWeights if method == FULL else merge.AdapterWeights
    real = kind.merge
    monkeypatch.setattr(kind, "merge", doubled)
    with pytest.raises(ModelUnusable, match=r"differs from what peft and transformers compute|does not predict"):
        rehearsed(tmp_path, method)
    assert not list((tmp_path / "cache").rglob("*")) or not list((tmp_path / "cache" / "rehearsed").glob("*"))


@WAYS
@pytest.mark.parametrize("method", [LORA, QLORA, FULL], ids=lambda method: type(method).__name__)
def test_the_proof_is_kept_and_nothing_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_bytes: int, method: Any
) -> None:
    make_tiny_model(tmp_path / "model")
    monkeypatch.setattr(rehearsal, "WHOLE_BYTES", whole_bytes)
    _, first = rehearsed(tmp_path, method)
    assert first.how == ("whole" if whole_bytes else "by layer")
    assert [path.parent.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == ["rehearsed"]
    _, second = rehearsed(tmp_path, method)
    assert second.how == "known"
    other = LoraSettings(r=2) if method != FULL else LORA4
    assert rehearsed(tmp_path, other)[1].how != "known"


def test_other_weights_or_another_library_are_rehearsed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_tiny_model(tmp_path / "model")
    rehearsed(tmp_path, LORA4)
    with monkeypatch.context() as patched:
        patched.setattr(rehearsal.importlib.metadata, "version", lambda _: "99")  # type: ignore[attr-defined]
        assert rehearsed(tmp_path, LORA4)[1].how == "whole"
    rewritten(base, lambda tensors: {name: tensor + 1e-6 for name, tensor in tensors.items()})
    assert rehearsed(tmp_path, LORA4)[1].how == "whole"


@pytest.mark.parametrize("method", [LORA, FULL], ids=["lora", "full"])
def test_a_rehearsal_does_not_change_a_bit_of_training(tmp_path: Path, method: Any) -> None:
    """The first job of a home rehearses, the same job in a home with the proof does not."""
    make_tiny_model(tmp_path / "model")
    home = Home(tmp_path)
    job, how = home.add(make_rows(6)), settings(method)
    first = home.bits(home.train_job(home.new_session(), job, how))
    (proof,) = (tmp_path / "cache" / "rehearsed").iterdir()
    second = home.bits(home.train_job(home.new_session(), job, how))
    assert first == second
    proof.unlink()
    session = home.new_session()
    home.train_job(session, job, how)
    assert home.bits(home.train_job(session, job, how)) == first


def test_what_a_killed_rehearsal_left_is_removed(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "model")
    dead = tmp_path / "cache" / "rehearsal" / "999999999"
    mine = dead.with_name("1")
    for left in (dead, mine):
        left.mkdir(parents=True)
        (left / "model.safetensors").write_bytes(b"half")
    rehearsed(tmp_path, LORA4)
    assert [path.name for path in dead.parent.iterdir()] == ["1"]  # a process that lives


def test_a_rehearsal_makes_way(tmp_path: Path) -> None:
    """Between its parts; nothing stays of it."""
    make_tiny_model(tmp_path / "model")
    how = settings(LORA4)
    trained = build(how, tmp_path, CPU)

    def beat() -> None:
        raise YieldRequested

    with pytest.raises(YieldRequested):
        rehearse(trained, how, tmp_path, None, {}, beat)
    assert not (tmp_path / "cache" / "rehearsal" / str(os.getpid())).exists()


def test_layers_that_do_not_compute_with_an_adapter_are_refused_with_settings_that_do(tmp_path: Path) -> None:
    """A router that is linear by its class and returns three tensors."""
    make_model(tmp_path / "model", "phimoe")
    with pytest.raises(ModelUnusable, match=r"does not compute .*target_modules = \[.*q_proj"):
        rehearsed(tmp_path, LORA4)
    assert sound(tmp_path, LORA4) != LORA4


def test_a_weight_that_is_infinite_is_refused_by_its_name(tmp_path: Path) -> None:
    def poisoned(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors["model.norm.weight"][0] = float("inf")
        return tensors

    rewritten(make_tiny_model(tmp_path / "model"), poisoned)
    with pytest.raises(ModelUnusable, match=r"model\.norm\.weight of the model is not finite"):
        rehearsed(tmp_path, LORA4)


def test_a_base_of_a_sharded_model_with_a_file_less_is_refused(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "model")
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(base, max_shard_size="40KB")
    (base / "model.safetensors").unlink()
    assert rehearsed(tmp_path, LORA4)[1].how == "whole"
    next(base.glob("model-00001-*")).unlink()
    with pytest.raises(ModelUnusable, match="lacks model-00001-"):
        rehearsed(tmp_path, LORA4)


@pytest.mark.parametrize("change", ["lost", "more"])
def test_an_adapter_that_peft_does_not_load_whole_is_refused(change: str, tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "model")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    rehearsal._refuse_unless_peft_loads(base, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    numbers = tensors[name] if change == "more" else tensors.pop(name)
    if change == "more":
        tensors[name.replace("q_proj", "k_proj")] = numbers.clone()
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(MergeRefused, match="peft does not load the adapter as it was saved"):
        rehearsal._refuse_unless_peft_loads(base, tmp_path / "adapter")
