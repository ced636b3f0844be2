"""Rehearse a consolidation before the first step: write a checkpoint, merge it, and load it with transformers and peft.

A model that cannot become a version is refused then, not after weeks of training. The result is kept in the home's
cache by base, method and library versions, so that later jobs do not repeat the rehearsal.

A small model is rehearsed whole. For a large one, or if memory or disk space are short, nothing of the model's size is
written or loaded: one layer of each kind is merged, and the names in the files are compared with the model.

The rehearsal never changes the model that is trained: it works on copies and restores the random generators.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch

from events.settings import FullSettings, JobSettings, MethodSettings, QloraSettings
from events.values import VersionId, checkpoint_id
from gpu.artifacts.artifact import CheckpointDirectory
from gpu.artifacts.checkpoint import Snapshot, copy_buffers, describe_snapshot
from gpu.artifacts.manifest import MOMENTS, Cursor, Lineage
from gpu.artifacts.tensors import Tensor
from gpu.artifacts.version_manifest import VersionDirectory
from gpu.errors import CheckpointBroken, MergeRefused, ModelUnusable, is_out_of_memory
from gpu.model.base import base_directory, weights_files
from gpu.model.build import TrainedModel
from gpu.model.layout import empty_model, make_layout
from gpu.model.targets import attention_names, way_out
from gpu.runtime.driver import is_driver_error
from gpu.runtime.library_paths import library_path
from gpu.runtime.memory_limits import available_bytes
from gpu.versions.logit_check import refuse_unless_close
from gpu.versions.merge import WeightsFile
from gpu.versions.merge_check import MergedTensors, check_tensor, expected_weights, first_and_last
from gpu.versions.merged_model import MergedModel, checkpoint_sources, make_manifest, open_merged_model
from journal.durable import make_directory, write_atomically
from journal.storage import REAL

log = logging.getLogger(__name__)

FORMAT = 1
"""Version of the rehearsal. Raise it when the rehearsal changes; every home then rehearses again."""

LIBRARIES = ("torch", "transformers", "peft", "safetensors")
"""Libraries whose versions decide names and layouts: another version needs another rehearsal."""

WHOLE_BYTES = 512 * 2**20
"""Largest number of bytes that a rehearsal of the whole model writes: a few seconds on two CPU cores, once."""

MEMORY_FACTOR = 1.2
"""Memory for a second copy of the model, as for a consolidation."""

CHANGE = 0.05
"""Size of the rehearsed change relative to the weight (root mean squares): far above the rounding of bfloat16 (0.004),
and small enough that the model still computes as before."""

SAMPLE = 2**16
"""Numbers of a weight that its root mean square is estimated from."""

DEFAULT_SIZE = 0.02
"""Assumed root mean square of a weight that is held in 4 bits or is zero."""

TEST_TOKENS = 8
"""Length of the test input: enough to pass every layer."""

EMPTY_JOB = "0" * 64


@dataclass(frozen=True)
class Rehearsal:
    """A rehearsal that passed."""

    how: Literal["whole", "by layer", "known"]
    """`known`: an earlier rehearsal with the same key passed."""
    seconds: float


def rehearse(
    trained: TrainedModel,
    settings: JobSettings,
    home: Path,
    version: VersionId | None,
    tokenizer_files: Mapping[str, bytes],
    beat: Callable[[], None] = lambda: None,
) -> Rehearsal:
    """Check that what `trained` trains on `version` (None: the origin) can become a version.

    `beat` is called between the parts of the work. Raises ModelUnusable with the reason and a way out; StorageFailed,
    OSError.
    """
    began = time.monotonic()
    proof = home / "cache" / "rehearsed" / _key(trained, settings)
    if proof.exists():
        return Rehearsal("known", time.monotonic() - began)
    with torch.random.fork_rng(), _staging(home / "cache" / "rehearsal") as staging:
        _refuse_unless_finite(trained)
        if not isinstance(settings.method, QloraSettings):  # a forward pass changes how 4-bit layers compute later
            _refuse_unless_it_runs(trained)
        try:
            whole = _merge_and_compare(trained, settings, home, version, tokenizer_files, staging, beat)
        except (MergeRefused, CheckpointBroken, ValueError, RuntimeError) as error:
            if is_out_of_memory(error) or is_driver_error(error):
                raise
            raise ModelUnusable(
                f"a version could not be made of what [method] trains of this model: {error}. {_way_out(trained)}"
            ) from error
    done = Rehearsal("whole" if whole else "by layer", time.monotonic() - began)
    make_directory(proof.parent)
    write_atomically(proof, msgspec.json.encode({"how": done.how, "seconds": round(done.seconds, 1)}), sync=False)
    return done


def _key(trained: TrainedModel, settings: JobSettings) -> str:
    """Return the name of the result in the cache: everything that decides whether the rehearsal passes."""
    method = msgspec.to_builtins(settings.method)
    method.pop("dropout", None)  # does not affect names and layouts
    parts = {
        "format": FORMAT,
        "base": trained.base_sha256,
        "model": msgspec.to_builtins(settings.model),
        "method": method,
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


def _way_out(trained: TrainedModel) -> str:
    if trained.adapted:
        return way_out(attention_names(trained.adapted))
    return 'Set [method] kind = "lora" in keepstep.toml, or use another model in [model] path.'


def _refuse_unless_finite(trained: TrainedModel) -> None:
    """Raise ModelUnusable if a weight of the model is infinite or NaN: no version could store it."""
    for name, weight in (*trained.model.named_parameters(), *trained.buffers.items()):
        if weight.is_floating_point() and not torch.isfinite(weight).all():
            raise ModelUnusable(f"{name} of the model is not finite. Download the model again.")


def _refuse_unless_it_runs(trained: TrainedModel) -> None:
    """Raise ModelUnusable if the model with its adapters cannot compute logits.

    Some layers are linear by their class but return more than a tensor, and an adapter on them fails.
    """
    size = int(trained.model.config.get_text_config().vocab_size)
    ids = (torch.arange(TEST_TOKENS, device=trained.device) % size)[None]
    was_training = trained.model.training
    trained.model.eval()  # no dropout, and no running statistics
    try:
        with torch.no_grad():
            trained.model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except Exception as error:
        if is_out_of_memory(error) or is_driver_error(error):
            raise
        log.warning("a forward pass failed in the rehearsal", exc_info=True)
        raise ModelUnusable(
            f"the model does not compute as [method] asks for it ({type(error).__name__}: {error}). {_way_out(trained)}"
        ) from error
    finally:
        trained.model.train(was_training)


@contextmanager
def _staging(place: Path) -> Iterator[Path]:
    """Yield a directory of this process below `place`. Remove those of processes that ended."""
    make_directory(place)
    for found in place.iterdir():
        if found.name.isdecimal() and not _is_alive(int(found.name)):
            shutil.rmtree(found, ignore_errors=True)
    staging = place / str(os.getpid())
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        with suppress(OSError):  # another process may be rehearsing too
            place.rmdir()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def _merge_and_compare(
    trained: TrainedModel,
    settings: JobSettings,
    home: Path,
    version: VersionId | None,
    tokenizer_files: Mapping[str, bytes],
    staging: Path,
    beat: Callable[[], None],
) -> bool:
    """Write, merge, load and compare. Return True if the whole model was. Raises MergeRefused, CheckpointBroken."""
    whole = _has_resources(trained, settings, home)
    snapshot = _snapshot(trained, settings, tokenizer_files, whole=whole)
    manifest, contents, _ = describe_snapshot(snapshot)
    checkpoint = staging / "checkpoints" / manifest.checkpoint
    CheckpointDirectory(checkpoint).write(contents, manifest.with_files, passed=_no_failpoint)
    beat()
    sources = checkpoint_sources(home, checkpoint, version)
    if not sources.full:
        _refuse_unless_peft_loads(sources.origin, checkpoint)
    with ExitStack() as stack:
        merged_model = stack.enter_context(open_merged_model(sources, None, beat))
        _refuse_unless_transformers_loads(sources.origin, trained if sources.full else merged_model)
        if whole or sources.full:  # with `full`, the files of a large model hold only some weights
            target = staging / "version"
            VersionDirectory(target).write(
                merged_model.contents, lambda _: make_manifest(sources, merged_model), passed=_no_failpoint
            )
            files = [stack.enter_context(closing(WeightsFile(target / name))) for name in merged_model.files]
            merged = MergedTensors(files, None)
        else:
            merged = MergedTensors(merged_model.sources, merged_model.trained)
        base = sources.parent or sources.origin
        before = [stack.enter_context(closing(WeightsFile(base / name))) for name in weights_files(base)]
        stored = MergedTensors(before, None)
        for expected in expected_weights(trained, snapshot, settings, every=whole):
            tensor = merged_model.tensor(expected.weight)
            numbers = stored.whole(tensor) + expected.numbers if expected.change else expected.numbers
            check_tensor(merged, tensor, numbers, expected.close)
            beat()
        if whole:
            refuse_unless_close(target, sources.reference, merged_model.stored_as)
    return whole


def _no_failpoint(_: str) -> None:
    """The failpoints of a checkpoint are not reached in a rehearsal."""


def _has_resources(trained: TrainedModel, settings: JobSettings, home: Path) -> bool:
    """True if disk and memory suffice to write a whole checkpoint with its moments, and a version."""
    origin = base_directory(settings.model.path, home, revision=settings.model.revision)
    model_bytes = sum((origin / name).stat().st_size for name in weights_files(origin))
    trained_bytes = sum(4 * parameter.numel() for parameter in trained.parameters.values())
    wanted_bytes = (1 + len(MOMENTS)) * trained_bytes + model_bytes
    return (
        wanted_bytes <= WHOLE_BYTES
        and REAL.free_bytes(home) > 2 * wanted_bytes
        and available_bytes() > MEMORY_FACTOR * model_bytes
    )


def _snapshot(
    trained: TrainedModel, settings: JobSettings, tokenizer_files: Mapping[str, bytes], *, whole: bool
) -> Snapshot:
    """Return a checkpoint after a step that changed every trained weight.

    For a large model that is trained whole, it holds the first and the last weight of each name.
    """
    generator = torch.Generator().manual_seed(0)
    names = list(trained.parameters)
    if not whole and isinstance(settings.method, FullSettings):
        names = first_and_last(names, lambda name: ".".join(name.split(".")[-2:]))
    weights = {name: _changed(trained, name, settings.method, generator) for name in names}
    moments = {f"{name}.{moment}": torch.zeros(w.shape) for name, w in weights.items() for moment in MOMENTS}
    return Snapshot(
        checkpoint=checkpoint_id(1, 1),
        reason="steps",
        cursor=Cursor(job=EMPTY_JOB, global_step=1, step=1, steps_total=1, epoch=1),
        lineage=Lineage(
            attempt=1,
            parent=None,
            data_sha256=EMPTY_JOB,
            batches_sha256="",
            tokenizer_sha256="",
            base_sha256=trained.base_sha256,
            settings=settings,
        ),
        environment={},
        weights_file=trained.weights_file,
        weights=weights,
        optimizer={**moments, "step": torch.ones(len(weights))},
        files={**tokenizer_files, **trained.configs},
        buffers=copy_buffers(trained),
    )


def _changed(trained: TrainedModel, name: str, method: MethodSettings, generator: torch.Generator) -> torch.Tensor:
    """Return a trained weight after a step, on the CPU in float32.

    For an adapter, the factor that begins at zero is changed, so that the product is CHANGE times the weight.
    """
    weight = trained.parameters[name].detach().to("cpu", torch.float32, copy=True).contiguous()
    noise = torch.randn(weight.shape, generator=generator)
    layer, is_factor, _ = name.partition(".lora_")
    if isinstance(method, FullSettings) or not is_factor or "magnitude" in name:
        return weight + CHANGE * _size(weight) * noise
    if weight.any():
        return weight
    partner = _partner(name, layer)
    scale = method.alpha / (method.r**0.5 if method.use_rslora else method.r)
    # Each number of the product is a sum over r independent ones.
    product = scale * method.r**0.5 * _size(trained.parameters[partner].detach())
    return noise * (CHANGE * _size(trained.model.get_submodule(layer).get_base_layer().weight) / product)


def _partner(name: str, layer: str) -> str:
    """Return the name of the other factor of a layer's adapter."""
    factor = name.removeprefix(layer)
    other = factor.replace("_A", "_B") if "_A" in factor else factor.replace("_B", "_A")
    return f"{layer}{other}"


def _size(weight: torch.Tensor) -> float:
    """Estimate the root mean square of a weight from its first numbers."""
    if not weight.is_floating_point():
        return DEFAULT_SIZE
    return float(weight.detach().flatten()[:SAMPLE].float().square().mean().sqrt()) or DEFAULT_SIZE


def _refuse_unless_peft_loads(origin: Path, checkpoint: Path) -> None:
    """Raise MergeRefused if plain peft does not load every tensor of the adapter."""
    from peft import PeftConfig, get_peft_model
    from peft.utils.save_and_load import load_peft_weights, set_peft_model_state_dict

    tensors = load_peft_weights(str(library_path(checkpoint)), device="cpu")
    model: Any = get_peft_model(empty_model(origin), PeftConfig.from_pretrained(str(library_path(checkpoint))))
    result = set_peft_model_state_dict(model, tensors, low_cpu_mem_usage=True)
    for name in (*result.unexpected_keys, *(key for key in result.missing_keys if ".lora_" in key)):
        raise MergeRefused(f"peft does not load the adapter as it was saved: {name} does not fit")


def _refuse_unless_transformers_loads(origin: Path, model: MergedModel | TrainedModel) -> None:
    """Raise MergeRefused if transformers would miss a weight in the files of the version.

    `model`: the merged model, or with `full` the trained one, whose checkpoints have the tensors of the version.
    """
    if isinstance(model, MergedModel):
        tensors = {name: tensor for file in model.sources for name, tensor in file.tensors.items()}
    else:
        held = [*model.shapes, *((name, shape) for name, shape, _ in model.buffer_kinds)]
        tensors = {name: Tensor(dtype="F32", shape=shape, data_offsets=(0, 0)) for name, shape in held}
    missing = make_layout(empty_model(origin), tensors).missing
    if missing:
        raise MergeRefused(f"transformers would not find {missing[0]} in the files of the version")
