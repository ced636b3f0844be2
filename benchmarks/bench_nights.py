"""Benchmark a hundred consolidations of a small model in bfloat16, each after very little training.

Each night trains on a file, commits a checkpoint, backs it up, merges it, checks it and publishes a version, on which
the next night trains. The applied fraction of the last version is compared with one float32 merge of all adapters, and
with merging each in place.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

NIGHTS = 100
LEARNING_RATE = 8e-7
"""A rate with which all nights together move the weights by about 2e-4 (standard deviation)."""


def main() -> None:
    """Print the applied fractions."""
    with tempfile.TemporaryDirectory() as directory:
        _nights(Path(directory))


def _nights(place: Path) -> None:
    import torch
    from msgspec.structs import replace
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from events.settings import LoraSettings
    from gpu.artifacts.version_manifest import TRAINED
    from tests.gpu.versions.test_consolidate import Nights, of_adapter
    from tests.harness.tiny_model import make_tiny_model

    model = make_tiny_model(place / "model")
    AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).save_pretrained(model)
    nights = Nights(place, LoraSettings(r=4), dtype="bfloat16")
    training = replace(nights.settings.training, learning_rate=LEARNING_RATE, epochs=1)
    nights.settings = replace(nights.settings, training=training)
    began = time.monotonic()
    for _ in range(NIGHTS):
        nights.night()
    seconds = time.monotonic() - began
    origin = load_file(model / "model.safetensors")
    made = nights.weights(f"v{NIGHTS:03d}")
    adapters = sorted((place / "versions" / f"v{NIGHTS:03d}" / TRAINED).iterdir())
    moved = single = in_place = trained = 0.0
    for name in (name for name in origin if name.endswith("_proj.weight")):
        deltas = [of_adapter(adapter, name) for adapter in adapters]
        at_first, total = origin[name].double(), torch.stack(deltas).sum(dim=0)
        night_after_night = origin[name]
        for delta in deltas:
            night_after_night = (night_after_night.float() + delta).to(torch.bfloat16)
        at_once = (origin[name].float() + total).to(torch.bfloat16)
        moved += float(((made[name].double() - at_first) * total).sum())
        single += float(((at_once.double() - at_first) * total).sum())
        in_place += float(((night_after_night.double() - at_first) * total).sum())
        trained += float((total * total).sum())
    kept, once, in_place = moved / trained, single / trained, in_place / trained
    print(f"{NIGHTS} consolidations of a tiny model in bfloat16, {seconds:.0f} s with training; applied fraction")
    print(f"  v{NIGHTS:03d} {kept:.3f}   one float32 merge of all {once:.3f}   ratio {kept / once:.4f}")
    print(f"  v{NIGHTS:03d} {kept:.3f}   in place, night after night {in_place:.3f}   ratio {kept / in_place:.0f}")


if __name__ == "__main__":
    main()
