"""A checkpoint as a model of its own: `python -P -m gpu.export`, with an `Order` as JSON for its only argument.

What it was trained beside and what it learned become ordinary weights in a directory that plain transformers loads. It
is written under a staging name, loaded again, held against base and checkpoint on fixed prompts, and only then named.
Prints an `Exported` or a `Refusal` as one line of JSON.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from gpu.base import CONFIG, INDEX, base_sha256, weights_files
from gpu.commit import STAGING, Content, publish
from gpu.errors import MergeRefused, StorageFailed, WorkerError
from gpu.exchange import DTYPES, Exported, Order, Refusal
from gpu.manifest import MANIFEST, OPTIMIZER_FILE, WEIGHTS_FILES, FileEntry, Manifest, verify
from gpu.merge import Adapters, Learned, Masters, Tally, WeightsFile, write_merged
from gpu.model import model_location
from gpu.worker import ENVIRONMENT

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
    tally = Tally()
    with ExitStack() as stack:

        def opened(path: Path) -> WeightsFile:
            return stack.enter_context(closing(WeightsFile(path)))

        files = [opened(base / name) for name in weights_files(base)]
        at_first = {name: file for file in files for name in file.tensors}
        whole = settings.method.__struct_config__.tag == "full"
        learned: Learned
        if whole:
            learned, files = Masters(at_first), [opened(checkpoint / WEIGHTS_FILES[1])]
        else:
            learned = Adapters([checkpoint])
        learned.refuse_misfit(files)

        def stored_as(name: str) -> str:
            return DTYPES[order.dtype] if order.dtype else at_first[name].tensors[name].dtype

        def write(file: WeightsFile, path: Path) -> None:
            write_merged(file, path, learned, stored_as, tally)

        weights = {file.path.name: partial(write, file) for file in files}
        dtypes = [stored_as(name) for file in files for name in file.tensors]
        most = max(sorted(set(dtypes)), key=dtypes.count)
        contents: dict[str, Content] = {
            **_small_files(base, checkpoint, manifest, most, sharded=not whole),
            "README.md": _card(manifest, most).encode(),
            **weights,
        }
        found = []

        def prove(staging: Path) -> None:
            found.append(difference(staging, base, None if whole else checkpoint, checkpoint))
            if not found[-1] <= TOLERANCE[most]:  # not a number is not within it either
                raise MergeRefused(
                    "the merged model does not answer as base and checkpoint do: its logits are off by "
                    f"{found[-1]:.1%}, and rounding to {most} explains {TOLERANCE[most]:.1%} at most"
                )

        def seal(entries: Mapping[str, FileEntry]) -> tuple[str, bytes]:
            sealed = Sealed(checkpoint=manifest, applied=tally.applied, files=dict(entries))
            return SEAL, msgspec.json.format(msgspec.json.encode(sealed, order="sorted"), indent=2) + b"\n"

        try:
            committed = publish(target, contents, seal, prove=prove)
        except BaseException:
            shutil.rmtree(target.with_name(f"{STAGING}{target.name}"), ignore_errors=True)
            raise
    return Exported(
        target=order.target,
        size_bytes=committed.size_bytes,
        dtypes=tuple(sorted(set(dtypes))),
        applied=tally.applied,
        difference=found[-1],
        tolerance=TOLERANCE[most],
    )


def base_directory(path: str, home: Path) -> Path:
    """Where the files of the model are that the settings name. Raises ModelUnusable, OSError."""
    from transformers.utils import cached_file

    return Path(cached_file(model_location(path, home), CONFIG)).parent


def difference(model: Path, base: Path, adapter: Path | None, whole: Path) -> float:
    """How far the logits of `model` are from those of `base` with `adapter` on it, or of the model in `whole`.

    Root mean square, as a share of that of the latter. One of the two is in memory at a time. Raises MergeRefused if
    `model` cannot be loaded, or not all of it.
    """
    import torch

    theirs, dtype = _logits(model, None, "auto")
    ours, _ = _logits(whole if adapter is None else base, adapter, dtype)
    return float(torch.linalg.norm(theirs - ours) / torch.linalg.norm(ours))


def _logits(directory: Path, adapter: Path | None, dtype: Any) -> tuple[Any, Any]:
    """What the model says to the fixed prompts, in float64, and what its weights are."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model, found = AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        for name in sorted(map(str, found[what])):
            raise MergeRefused(f"{directory} does not load as it should: {name} is among its {what.replace('_', ' ')}")
    loaded = model.dtype
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    model.eval()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.get_text_config().vocab_size, (PROMPTS, PROMPT_TOKENS), generator=generator)
    with torch.inference_mode():
        return model(input_ids=ids).logits.double(), loaded


def _small_files(base: Path, checkpoint: Path, manifest: Manifest, most: str, *, sharded: bool) -> dict[str, bytes]:
    """Config, generation config and code of the base; the tokenizer and chat template that it was trained with."""
    config = msgspec.json.decode((base / CONFIG).read_bytes())
    if config.get("quantization_config"):
        raise MergeRefused("the base is quantised, and nothing is merged into rounded weights: use its 16-bit original")
    config.pop("torch_dtype", None)
    config["dtype"] = next(name for name, stored in DTYPES.items() if stored == most)
    files = {CONFIG: msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n"}
    names = ["generation_config.json", *(path.name for path in base.glob("*.py"))]
    if sharded and len(weights_files(base)) > 1:
        names.append(INDEX)
    files.update({name: (base / name).read_bytes() for name in names if (base / name).exists()})
    tokenizer = manifest.files.keys() - NOT_OF_A_MODEL - {CONFIG, "generation_config.json"}
    files.update({name: (checkpoint / name).read_bytes() for name in sorted(tokenizer)})
    return files


def _card(manifest: Manifest, most: str) -> str:
    """The model card: https://huggingface.co/docs/hub/model-cards."""
    settings, cursor = manifest.lineage.settings, manifest.cursor
    method: Sequence[str] = [
        f"{name} = {value}" for name, value in msgspec.to_builtins(settings.method).items() if name != "kind"
    ]
    kind = settings.method.__struct_config__.tag
    return f"""---
base_model: {msgspec.json.encode(settings.model.path).decode()}
library_name: transformers
pipeline_tag: text-generation
---

# {manifest.checkpoint}

Trained by keepstep from `{settings.model.path}` up to step {cursor.global_step}, and merged into weights that are
stored as {most}.

- method: {kind}{f" ({', '.join(method)})" if method else ""}
- last data file: SHA-256 `{cursor.job}`, {cursor.step} of its {cursor.steps_total} steps
- base: SHA-256 `{manifest.lineage.base_sha256}`

`{SEAL}` has the settings, the libraries, and the SHA-256 of every file.
"""


def main() -> None:
    """Carry out the order on the command line."""
    order = msgspec.json.decode(sys.argv[1], type=Order)
    os.environ.update(ENVIRONMENT)
    answer: Exported | Refusal
    try:
        answer = export(order)
    except (WorkerError, OSError, ValueError, RuntimeError) as error:
        answer = Refusal(problem=" ".join(str(error).split()), storage=isinstance(error, StorageFailed))
    sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")


if __name__ == "__main__":
    main()
