"""Merging what was trained into the weights: the numbers, the file, and how little memory it takes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gpu.errors import MergeRefused
from gpu.model.layout import StoredWeight
from gpu.versions import merge
from gpu.versions.merge import AdapterWeights, FullWeights, MergeStats, WeightsFile, tensors_equal, write_merged
from tests.harness.tiny_model import make_tiny_model

R, ALPHA = 2, 8.0


@pytest.fixture
def base(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    tensors = {
        "layer.weight": torch.randn(6, 4) * 0.02,
        "norm.weight": torch.ones(4),
        "half.weight": torch.randn(3, 5).to(torch.bfloat16),
        "count": torch.tensor(7),
        "nothing": torch.empty(0, 4),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def adapter(directory: Path, *modules: str, seed: int = 1, size: float = 0.1, **config: object) -> Path:
    import json

    generator = torch.Generator().manual_seed(seed)
    directory.mkdir()
    settings = {"r": R, "lora_alpha": ALPHA, "use_rslora": False, "use_dora": False, **config}
    (directory / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    shapes = {"layer": (6, 4), "half": (3, 5)}
    tensors = {}
    for module in modules:
        out, into = shapes.get(module, (6, 4))
        name = f"base_model.model.{module}"
        tensors[f"{name}.lora_A.weight"] = torch.randn(R, into, generator=generator) * size
        tensors[f"{name}.lora_B.weight"] = torch.randn(out, R, generator=generator) * size
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory


def delta_of(directory: Path, module: str) -> torch.Tensor:
    tensors = load_file(directory / "adapter_model.safetensors")
    name = f"base_model.model.{module}"
    return tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"] * (ALPHA / R)


def written(
    source: Path, trained: merge.TrainedWeights, stored_as: Callable[[str], str] | None = None
) -> tuple[dict[str, torch.Tensor], MergeStats]:
    tally, target = MergeStats(), source.with_name("merged.safetensors")
    target.unlink(missing_ok=True)
    with closing(WeightsFile(source)) as file:
        trained.refuse_mismatch([file])
        write_merged(file, target, trained, stored_as or (lambda name: file.tensors[name].dtype), tally)
    return load_file(target), tally


@pytest.mark.parametrize("block", [1, 5, 2**20])
def test_a_weight_is_the_base_plus_the_delta_of_every_adapter(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """Whatever fits into one block of rows."""
    monkeypatch.setattr(merge, "BLOCK_ITEMS", block)
    both = [adapter(tmp_path / "one", "layer"), adapter(tmp_path / "two", "layer", "half", seed=2)]
    merged, tally = written(base, AdapterWeights(both))
    before = load_file(base)
    assert list(merged) == list(before)
    torch.testing.assert_close(
        merged["layer.weight"], before["layer.weight"] + delta_of(both[0], "layer") + delta_of(both[1], "layer")
    )
    expected = (before["half.weight"].float() + delta_of(both[1], "half")).to(torch.bfloat16)
    torch.testing.assert_close(merged["half.weight"], expected)
    for untouched in ("norm.weight", "count", "nothing"):
        assert torch.equal(merged[untouched], before[untouched])
        assert merged[untouched].dtype == before[untouched].dtype
    assert tally.applied == pytest.approx(1.0, abs=0.05)


def test_everything_but_counts_is_rounded_to_what_is_asked_for(base: Path, tmp_path: Path) -> None:
    merged, _ = written(base, AdapterWeights([adapter(tmp_path / "one", "layer")]), lambda _: "F16")
    assert {name: tensor.dtype for name, tensor in merged.items() if name != "count"} == dict.fromkeys(
        ("half.weight", "layer.weight", "norm.weight", "nothing"), torch.float16
    )
    assert merged["count"].dtype == torch.int64


def test_many_small_deltas_are_rounded_once_and_none_of_them_is_lost(base: Path, tmp_path: Path) -> None:
    """Each delta is far below the resolution of bfloat16; their sum before rounding is not."""
    nights = [adapter(tmp_path / f"{night}", "layer", seed=3, size=0.001) for night in range(100)]
    merged, _ = written(base, AdapterWeights(nights), lambda _: "BF16")
    before = load_file(base)["layer.weight"].to(torch.bfloat16)
    in_place = before
    for night in nights:
        in_place = (in_place.float() + delta_of(night, "layer")).to(torch.bfloat16)
    trained = sum(delta_of(night, "layer") for night in nights)
    kept = ((in_place.float() - before.float()) * trained).sum() / (trained * trained).sum()
    assert float(kept) < 0.5
    once = ((merged["layer.weight"].float() - before.float()) * trained).sum() / (trained * trained).sum()
    assert float(once) == pytest.approx(1.0, abs=0.06)


def test_the_applied_fraction_of_the_last_night_and_that_of_a_merge_in_place(tmp_path: Path) -> None:
    """Fifty nights, each with a delta below the resolution of the weights."""
    torch.manual_seed(0)
    base = tmp_path / "model.safetensors"
    save_file({"layer.weight": torch.randn(512, 512).to(torch.bfloat16)}, base)
    nights = [wide(tmp_path / f"{night}", night) for night in range(50)]
    _, last = written(base, AdapterWeights(nights), lambda _: "BF16")
    assert last.in_place is not None
    assert last.applied == pytest.approx(1.0, abs=0.15)
    assert last.in_place < 0.6


def wide(directory: Path, seed: int) -> Path:
    """A night with a small delta of a whole layer of 512 × 512."""
    generator = torch.Generator().manual_seed(seed)
    directory.mkdir()
    tensors = {
        f"base_model.model.layer.lora_{name}.weight": torch.randn(shape, generator=generator) * 0.02
        for name, shape in (("A", (4, 512)), ("B", (512, 4)))
    }
    save_file(tensors, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 4}', encoding="utf-8")
    return directory


def test_rslora_has_its_own_scale(base: Path, tmp_path: Path) -> None:
    directory = adapter(tmp_path / "one", "layer", use_rslora=True)
    merged, _ = written(base, AdapterWeights([directory]))
    trained = delta_of(directory, "layer") * R / R**0.5
    torch.testing.assert_close(merged["layer.weight"], load_file(base)["layer.weight"] + trained)


def test_a_vector_of_dora_without_dora_and_the_other_way_round_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MergeRefused, match="do not agree on DoRA"):
        AdapterWeights([adapter(tmp_path / "one", "layer", use_dora=True)])


def test_a_weight_that_its_layer_holds_turned_gets_the_change_turned(base: Path, tmp_path: Path) -> None:
    """Also a square one, where no shape would tell."""
    save_file({"layer.weight": torch.randn(4, 6), "square.weight": torch.randn(5, 5)}, base)
    shapes = {"base_model.model.layer": (6, 4), "base_model.model.square": (5, 5)}
    directory = adapter(tmp_path / "one", "layer")
    tensors = {}
    for name, (out, into) in shapes.items():
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = torch.randn(R, into), torch.randn(out, R)
    save_file(tensors, directory / "adapter_model.safetensors")
    merged, _ = written(base, AdapterWeights([directory], lambda weight: StoredWeight(weight, transposed=True)))
    for module in ("layer", "square"):
        expected = load_file(base)[f"{module}.weight"] + delta_of(directory, module).T
        torch.testing.assert_close(merged[f"{module}.weight"], expected)


def test_an_embedding_gets_what_peft_would_merge(base: Path, tmp_path: Path) -> None:
    """Its factors have other names and other axes."""
    embedding = torch.nn.Sequential(torch.nn.Embedding(7, 4))
    save_file({"0.weight": embedding[0].weight.detach().clone()}, base)
    model: Any = get_peft_model(embedding, LoraConfig(r=R, lora_alpha=ALPHA, target_modules=["0"]))
    for parameter in model.parameters():
        parameter.data.normal_()
    save_file({"0.weight": model.base_model.model[0].base_layer.weight.detach().clone()}, base)
    model.save_pretrained(tmp_path / "adapter")
    merged, _ = written(base, AdapterWeights([tmp_path / "adapter"]))
    torch.testing.assert_close(merged["0.weight"], model.merge_and_unload()[0].weight.detach())


def test_dora_on_a_turned_weight_is_refused(tmp_path: Path) -> None:
    directory = adapter(tmp_path / "one", "layer", use_dora=True)
    tensors = load_file(directory / "adapter_model.safetensors")
    tensors["base_model.model.layer.lora_magnitude_vector"] = torch.ones(6)
    save_file(tensors, directory / "adapter_model.safetensors")
    with pytest.raises(MergeRefused, match="use_dora = false"):
        AdapterWeights([directory], lambda weight: StoredWeight(weight, transposed=True))


@pytest.mark.parametrize("config", [{"use_dora": True}, {"use_rslora": True}, {"use_dora": True, "use_rslora": True}])
def test_it_is_what_peft_itself_would_merge(tmp_path: Path, config: dict[str, bool]) -> None:
    """Into the same weights, to within the rounding of float32."""
    torch.manual_seed(0)
    make_tiny_model(tmp_path / "model")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, **config))
    for name, parameter in tuned.named_parameters():
        if "magnitude" in name:
            parameter.data *= 1.1
    tuned.save_pretrained(tmp_path / "adapter")
    theirs = tuned.merge_and_unload().state_dict()
    merged, _ = written(tmp_path / "model" / "model.safetensors", AdapterWeights([tmp_path / "adapter"]))
    trained = [name for name in merged if name.endswith("_proj.weight")]
    assert trained
    for name in trained:
        torch.testing.assert_close(merged[name], theirs[name], rtol=1e-5, atol=1e-6)


def test_weights_that_were_trained_whole_are_stored_as_they_are(base: Path, tmp_path: Path) -> None:
    """Rounded to what is asked for, and held against what they were at first."""
    masters = {
        name: tensor.float() + 0.5
        for name, tensor in load_file(base).items()
        if name in {"layer.weight", "norm.weight"}
    }
    (tmp_path / "trained").mkdir()
    save_file(masters, tmp_path / "trained" / "model.safetensors")
    with closing(WeightsFile(base)) as at_first:
        trained = FullWeights(dict.fromkeys(at_first.tensors, at_first))
        merged, tally = written(tmp_path / "trained" / "model.safetensors", trained, lambda _: "BF16")
        assert {name: tensor.dtype for name, tensor in merged.items()} == dict.fromkeys(masters, torch.bfloat16)
        assert torch.equal(merged["layer.weight"], masters["layer.weight"].to(torch.bfloat16))
        assert tally.applied == pytest.approx(1.0, abs=0.01)


def test_buffers_are_copied_and_stay_what_they_are(base: Path, tmp_path: Path) -> None:
    """They are no part of what was trained, whatever they are rounded to."""
    (tmp_path / "trained").mkdir()
    masters = {"layer.weight": torch.ones(6, 4), "scale": torch.tensor([1.5]), "steps": torch.tensor(3)}
    save_file(masters, tmp_path / "trained" / "model.safetensors")
    with closing(WeightsFile(base)) as at_first:
        trained = FullWeights(dict.fromkeys(at_first.tensors, at_first), buffers=frozenset({"scale", "steps"}))
        merged, tally = written(tmp_path / "trained" / "model.safetensors", trained)
    assert torch.equal(merged["scale"], masters["scale"])
    assert torch.equal(merged["steps"], masters["steps"])
    assert tally.applied == pytest.approx(1.0)


@pytest.mark.parametrize("config", [{"target_parameters": ["experts"]}, {"modules_to_save": ["head"]}])
def test_what_cannot_be_merged_is_refused_by_its_name(tmp_path: Path, config: dict[str, object]) -> None:
    with pytest.raises(MergeRefused, match=next(iter(config))):
        AdapterWeights([adapter(tmp_path / "one", "layer", **config)])


def test_a_delta_for_a_missing_tensor_is_refused(base: Path, tmp_path: Path) -> None:
    trained = AdapterWeights([adapter(tmp_path / "one", "lm_head")])
    with closing(WeightsFile(base)) as file, pytest.raises(MergeRefused, match=r"no tensor for lm_head\.weight"):
        trained.refuse_mismatch([file])


def test_what_has_another_shape_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(MergeRefused, match="the change is 6 × 4, the weight 4"):
        written(base, AdapterWeights([adapter(tmp_path / "one", "norm")]))


def test_numbers_that_the_target_cannot_hold_are_refused(base: Path, tmp_path: Path) -> None:
    """70,000 is no number in float16."""
    save_file({"layer.weight": torch.full((6, 4), 7e4)}, base)
    with pytest.raises(MergeRefused, match=r"layer\.weight cannot be stored as F16"):
        written(base, AdapterWeights([adapter(tmp_path / "one", "layer")]), lambda _: "F16")


def test_only_a_block_is_in_memory(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block that is read has at most as many numbers as one may have, or is one row."""
    monkeypatch.setattr(merge, "BLOCK_ITEMS", 8)
    seen = []
    read = WeightsFile.rows

    def watched(self: WeightsFile, name: str, rows: merge.RowRange) -> torch.Tensor:
        seen.append((name, found := read(self, name, rows))[1].numel())
        return found

    monkeypatch.setattr(WeightsFile, "rows", watched)
    written(base, AdapterWeights([adapter(tmp_path / "one", "layer")]))
    assert max(seen) <= 8
    assert sum(seen) == sum(tensor.numel() for tensor in load_file(base).values())


def test_halves_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    directory = adapter(tmp_path / "one", "layer")
    tensors = load_file(directory / "adapter_model.safetensors")
    tensors["base_model.model.layer.lora_B.weight"] = torch.zeros(6, R + 1)
    save_file(tensors, directory / "adapter_model.safetensors")
    with pytest.raises(MergeRefused, match="layer has no two factors A and B that fit each other"):
        AdapterWeights([directory])
    del tensors["base_model.model.layer.lora_B.weight"]
    save_file(tensors, directory / "adapter_model.safetensors")
    with pytest.raises(MergeRefused, match="layer has no two factors A and B that fit each other"):
        AdapterWeights([directory])


def test_masters_of_another_shape_or_of_nothing_are_refused(base: Path, tmp_path: Path) -> None:
    (tmp_path / "trained").mkdir()
    with closing(WeightsFile(base)) as at_first:
        for masters, says in (
            ({"layer.weight": torch.zeros(3, 4)}, "was trained as 3 × 4, the base has it as 6 × 4"),
            ({"layer.weight": torch.zeros(6, 1)}, "was trained as 6 × 1, the base has it as 6 × 4"),
            ({"other.weight": torch.zeros(6, 4)}, "the base has no weight other"),
        ):
            save_file(masters, tmp_path / "trained" / "model.safetensors")
            trained = FullWeights(dict.fromkeys(at_first.tensors, at_first))
            with pytest.raises(MergeRefused, match=says):
                written(tmp_path / "trained" / "model.safetensors", trained)


def test_numbers_that_only_hardware_knows_are_refused(base: Path, tmp_path: Path) -> None:
    """Eight-bit floats have separate scales, which the merge does not read."""
    save_file({"layer.weight": torch.zeros(6, 4).to(torch.float8_e4m3fn)}, base)
    with pytest.raises(MergeRefused, match="is stored as F8_E4M3, which cannot be added to"):
        written(base, AdapterWeights([adapter(tmp_path / "one", "layer")]))


def test_tensors_of_another_shape_are_not_equal(tmp_path: Path) -> None:
    for name, shape in (("one", (2, 3)), ("same", (2, 3)), ("other", (3, 2)), ("shorter", (1, 3))):
        save_file({"w": torch.zeros(shape)}, tmp_path / name)
    with ExitStack() as stack:
        one, *others = (
            stack.enter_context(closing(WeightsFile(tmp_path / name))) for name in ("one", "same", "other", "shorter")
        )
        assert [tensors_equal(one, "w", each, "w") for each in others] == [True, False, False]
