"""Benchmark the merge: how much of many small deltas survives in bfloat16, and the memory compared with peft's merge.

A hundred nights, each a LoRA delta far below the resolution of bfloat16 weights. The applied fraction is
Σ moved · delta / Σ delta²: once as keepstep merges (base + float32 sum, rounded once), once merged in place (rounded
each night). The memory is the peak of a process above that after loading its libraries, for the same adapter and model.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

NIGHTS = 100
WEIGHTS_STD, DELTA_STD = 0.02, 1e-4
"""Standard deviations of the weights, and of the delta of all nights together."""
RANK = 8
SIZE = 1024


def main() -> None:
    """Print the applied fractions and the memory."""
    with tempfile.TemporaryDirectory() as directory:
        once, single, in_place = applied_fractions(Path(directory))
    print(f"{NIGHTS} nights in bfloat16, delta {DELTA_STD:g}, weights {WEIGHTS_STD:g}, applied fraction")
    print(f"  keepstep {once:.3f}   in place, night after night {in_place:.3f}   ratio {once / in_place:.0f}")
    print(f"  keepstep {once:.3f}   one float32 merge of all of them {single:.3f}   ratio {once / single:.3f}")
    with tempfile.TemporaryDirectory() as directory:
        model, adapter, size_mb, largest_mb = _large(Path(directory))
        ours, theirs = _memory_mb("ours", model, adapter), _memory_mb("theirs", model, adapter)
    print(f"memory to merge a model of {size_mb:.0f} MB, its largest tensor {largest_mb:.0f} MB in float32")
    print(f"  keepstep {ours:.0f} MB   peft merge_and_unload {theirs:.0f} MB   ratio {ours / theirs:.3f}")


def applied_fractions(directory: Path) -> tuple[float, float, float]:
    """Return the applied fraction as keepstep merges, of one merge of all nights, and of merges in place."""
    import torch
    from safetensors.torch import load_file, save_file

    from gpu.versions.merge import AdapterWeights, MergeStats, WeightsFile, write_merged

    torch.manual_seed(0)
    before = (torch.randn(SIZE, SIZE) * WEIGHTS_STD).to(torch.bfloat16)
    save_file({"w.weight": before}, directory / "model.safetensors")
    nights = [_adapter(directory / f"{night}", SIZE, DELTA_STD / NIGHTS) for night in range(NIGHTS)]
    target = directory / "merged.safetensors"
    with closing(WeightsFile(directory / "model.safetensors")) as file:
        write_merged(file, target, AdapterWeights(nights), lambda _: "BF16", MergeStats())
    trained, in_place = torch.zeros(SIZE, SIZE), before
    for night in nights:
        tensors = load_file(night / "adapter_model.safetensors")
        a, b = (tensors[f"base_model.model.w.lora_{half}.weight"] for half in "AB")
        trained += b @ a
        in_place = (in_place.float() + b @ a).to(torch.bfloat16)

    def share(after: torch.Tensor) -> float:
        return float(((after.double() - before.double()) * trained).sum() / (trained * trained).sum())

    return share(load_file(target)["w.weight"]), share((before.float() + trained).to(torch.bfloat16)), share(in_place)


def _adapter(directory: Path, size: int, std: float) -> Path:
    """Write the adapter of a night: B A has `std`, and is the same every night, so the sum is `NIGHTS` times that."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(1)
    directory.mkdir()
    half = (std / RANK**0.5) ** 0.5
    tensors = {
        f"base_model.model.w.lora_{name}.weight": torch.randn(shape, generator=generator) * half
        for name, shape in (("A", (RANK, size)), ("B", (size, RANK)))
    }
    save_file(tensors, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": RANK}), encoding="utf-8")
    return directory


# -- memory ---------------------------------------------------------------------------------------------------------


def _large(directory: Path) -> tuple[Path, Path, float, float]:
    """Return a large model in bfloat16, an adapter on all its layers, and MB of the model and of its largest tensor in
    float32."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=16_000,
        hidden_size=2048,
        intermediate_size=5504,
        num_hidden_layers=6,
        num_attention_heads=16,
        num_key_value_heads=16,
        tie_word_embeddings=True,
    )
    torch.set_default_dtype(torch.bfloat16)
    model: Any = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(directory / "model")
    size_mb = (directory / "model" / "model.safetensors").stat().st_size / 1e6
    largest_mb = max(parameter.numel() for parameter in model.parameters()) * 4 / 1e6
    get_peft_model(model, LoraConfig(r=RANK, target_modules="all-linear", init_lora_weights=False)).save_pretrained(
        directory / "adapter"
    )
    return directory / "model", directory / "adapter", size_mb, largest_mb


_OURS = """
from contextlib import closing
from gpu.versions.merge import AdapterWeights, MergeStats, WeightsFile, write_merged
def merge(model, adapter, out):
    with closing(WeightsFile(model / "model.safetensors")) as file:
        write_merged(file, out / "model.safetensors", AdapterWeights([adapter]), lambda name: "BF16", MergeStats())
"""
_THEIRS = """
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
def merge(model, adapter, out):
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(out)
"""
_MEASURED = """
import sys, tempfile, torch
from pathlib import Path
def high_water_kb():  # not ru_maxrss, which a fork inherits
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
torch.zeros(8, 8) @ torch.zeros(8, 8)
before = high_water_kb()
with tempfile.TemporaryDirectory() as out:
    merge(Path(sys.argv[1]), Path(sys.argv[2]), Path(out))
print((high_water_kb() - before) / 1e3)
"""


def _memory_mb(whose: str, model: Path, adapter: Path) -> float:
    script = (_OURS if whose == "ours" else _THEIRS) + _MEASURED
    ended = subprocess.run(
        [sys.executable, "-c", script, str(model), str(adapter)], capture_output=True, text=True, check=True
    )
    return float(ended.stdout.split()[-1])


if __name__ == "__main__":
    main()
