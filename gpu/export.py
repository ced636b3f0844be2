"""A checkpoint as a model of its own: `python -P -m gpu.export`, with an `Order` as JSON for its only argument.

What it was trained beside and what it learned become ordinary weights in a directory that plain transformers loads. It
is written under a staging name, loaded again, held against base and checkpoint on fixed prompts, and only then named.
Prints an `Exported` or a `Refusal` as one line of JSON.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

from events.settings import FullSettings
from gpu.base import CONFIG, INDEX, base_directory, base_files, base_sha256, weights_files
from gpu.commit import Content, publish, staging_of
from gpu.errors import MergeRefused
from gpu.exchange import DTYPES, Exported, Order, reply
from gpu.manifest import MANIFEST, OPTIMIZER_FILE, WEIGHTS_FILES, FileEntry, Manifest, verify
from gpu.merge import Adapters, Learned, Masters, Tally, WeightsFile, write_merged

TOLERANCE: Mapping[str, float] = {"F32": 1e-3, "BF16": 0.1, "F16": 0.02}
"""How far the logits may be from those of base and checkpoint: root mean square of the difference, as a share of that
of theirs. Several times what rounding alone does to them."""

PROMPTS, PROMPT_TOKENS = 4, 32
"""Asked of both. Random tokens, from a fixed seed: the same for every model and every language."""

SEAL = "keepstep.json"
"""Written last: what the model was made of, and size and SHA-256 of every file."""

NOT_OF_A_MODEL = frozenset({*WEIGHTS_FILES, OPTIMIZER_FILE, MANIFEST, "trainer_state.json", "adapter_config.json"})
"""What a checkpoint has beside its tokenizer."""


class Sealed(Struct, frozen=True, kw_only=True):
    """The content of `keepstep.json`."""

    format: Literal[1] = 1
    checkpoint: Manifest
    """With its lineage: data, base, tokenizer, settings."""
    applied: float | None
    files: dict[str, FileEntry]


def export(order: Order) -> Exported:
    """Raises WorkerError, OSError, ValueError."""
    checkpoint, target = Path(order.checkpoint), Path(order.target)
    manifest = verify(checkpoint)
    settings = manifest.lineage.settings
    base = base_directory(settings.model.path, Path(order.home))
    if manifest.lineage.base_sha256 not in {"", base_sha256(base)}:
        raise MergeRefused(
            f"the base model at {settings.model.path} is not the one that {manifest.checkpoint} was trained on: put "
            f"that one back (SHA-256 {manifest.lineage.base_sha256})"
        )
    with ExitStack() as stack:

        def opened(path: Path) -> WeightsFile:
            return stack.enter_context(closing(WeightsFile(path)))

        files = [opened(base / name) for name in weights_files(base)]
        at_first = {name: file for file in files for name in file.tensors}
        learned: Learned
        if isinstance(settings.method, FullSettings):
            learned, files = Masters(at_first), [opened(checkpoint / WEIGHTS_FILES[1])]
            small, reference = {}, Reference(checkpoint)
        else:
            learned, reference = Adapters([checkpoint]), Reference(base, checkpoint)
            small = {INDEX: (base / INDEX).read_bytes()} if INDEX in base_files(base) else {}
        learned.refuse_misfit(files)

        def stored_as(name: str) -> str:
            return DTYPES[order.dtype] if order.dtype else at_first[name].tensors[name].dtype

        dtypes = [stored_as(name) for file in files for name in file.tensors]
        most = max(sorted(set(dtypes)), key=dtypes.count)
        tally, distance = Tally(), math.nan
        contents: dict[str, Content] = {
            **small,
            **_small_files(base, checkpoint, manifest, most),
            "README.md": _card(manifest, most).encode(),
            **{
                file.path.name: partial(write_merged, file, learned=learned, stored_as=stored_as, tally=tally)
                for file in files
            },
        }

        def prove(staging: Path) -> None:
            nonlocal distance
            distance = difference(staging, reference)
            if not distance <= TOLERANCE[most]:  # not a number is not within it either
                raise MergeRefused(
                    "the merged model does not answer as base and checkpoint do: its logits are off by "
                    f"{distance:.1%}, and rounding to {most} explains {TOLERANCE[most]:.1%} at most"
                )

        def seal(entries: Mapping[str, FileEntry]) -> tuple[str, bytes]:
            sealed = Sealed(checkpoint=manifest, applied=tally.applied, files=dict(entries))
            return SEAL, msgspec.json.format(msgspec.json.encode(sealed, order="sorted"), indent=2) + b"\n"

        stack.callback(shutil.rmtree, staging_of(target), ignore_errors=True)  # what has its name is there no more
        committed = publish(target, contents, seal, prove=prove)
    return Exported(
        target=order.target,
        size_bytes=committed.size_bytes,
        dtypes=tuple(sorted(set(dtypes))),
        applied=tally.applied,
        difference=distance,
        tolerance=TOLERANCE[most],
    )


class Reference(NamedTuple):
    """What a merged model must answer as: a model, with an adapter on it or by itself."""

    model: Path
    adapter: Path | None = None


def difference(model: Path, reference: Reference) -> float:
    """How far the logits of `model` are from those of the reference: root mean square, as a share of that of theirs.

    One of the two is in memory at a time. Raises MergeRefused if `model` cannot be loaded, or not all of it.
    """
    import torch

    theirs, dtype = _logits(Reference(model), "auto")
    ours, _ = _logits(reference, dtype)
    return float(torch.linalg.norm(theirs - ours) / torch.linalg.norm(ours))


def _logits(asked: Reference, dtype: Any) -> tuple[Any, Any]:
    """What is said to the fixed prompts, in float64, and what the weights are."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model, found = AutoModelForCausalLM.from_pretrained(
        asked.model, dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    for what in ("missing", "unexpected", "mismatched"):
        for name in sorted(map(str, found[f"{what}_keys"])):
            raise MergeRefused(f"{asked.model} does not load as it should: {name} is among its {what} keys")
    loaded = model.dtype
    if asked.adapter is not None:
        model = PeftModel.from_pretrained(model, asked.adapter)
    model.eval()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.get_text_config().vocab_size, (PROMPTS, PROMPT_TOKENS), generator=generator)
    with torch.inference_mode():
        return model(input_ids=ids).logits.double(), loaded


def _small_files(base: Path, checkpoint: Path, manifest: Manifest, most: str) -> dict[str, bytes]:
    """Config, generation config and code of the base; the tokenizer and chat template that it was trained with."""
    config = msgspec.json.decode((base / CONFIG).read_bytes())
    if config.get("quantization_config"):
        raise MergeRefused("the base is quantised, and nothing is merged into rounded weights: use its 16-bit original")
    config.pop("torch_dtype", None)
    config["dtype"] = next(name for name, stored in DTYPES.items() if stored == most)
    files = {CONFIG: msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n"}
    names = ["generation_config.json", *(path.name for path in base.glob("*.py"))]
    files.update({name: (base / name).read_bytes() for name in names if (base / name).exists()})
    tokenizer = manifest.files.keys() - NOT_OF_A_MODEL - {CONFIG, "generation_config.json"}
    files.update({name: (checkpoint / name).read_bytes() for name in sorted(tokenizer)})
    return files


def _card(manifest: Manifest, most: str) -> str:
    """The model card: https://huggingface.co/docs/hub/model-cards."""
    settings, cursor = manifest.lineage.settings, manifest.cursor
    method = msgspec.to_builtins(settings.method)
    kind, shape = method.pop("kind"), ", ".join(f"{name} = {value}" for name, value in method.items())
    return f"""---
base_model: {msgspec.json.encode(settings.model.path).decode()}
library_name: transformers
pipeline_tag: text-generation
---

# {manifest.checkpoint}

Trained by keepstep from `{settings.model.path}` up to step {cursor.global_step}, and merged into weights that are
stored as {most}.

- method: {kind}{f" ({shape})" if shape else ""}
- last data file: SHA-256 `{cursor.job}`, {cursor.step} of its {cursor.steps_total} steps
- base: SHA-256 `{manifest.lineage.base_sha256}`

`{SEAL}` has the settings, the libraries, and the SHA-256 of every file.
"""


def main() -> None:
    """Carry out the order on the command line."""
    reply(Order, export)


if __name__ == "__main__":
    main()
