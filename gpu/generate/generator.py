"""A model in memory, and its answers.

A model is loaded as training loads it: the same checks, the same method and data type, safetensors only, no code of the
model. After that it needs no file: a daemon may delete its checkpoint or version.

Weights in memory are used again where that gives the same bits: a checkpoint replaces the trained weights of another
one on the same base, and the base answers while the adapter on it is switched off.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace

from events.generation import (
    ChatMessage,
    Finish,
    GenerationFinished,
    GenerationStarted,
    MemoryBudget,
    ModelLoaded,
    ModelSource,
    Sampling,
)
from events.settings import AdapterSettings, JobSettings, MethodSettings, QloraSettings
from events.values import Device
from gpu.artifacts import checkpoint
from gpu.artifacts.artifact import CheckpointDirectory
from gpu.artifacts.compatibility import TrainingTarget
from gpu.artifacts.manifest import Manifest
from gpu.artifacts.version_manifest import VersionDirectory, find_base_problem, training_base, version_directory
from gpu.data.encode.encoder import Encoder
from gpu.data.processes.encoder_pool import core_count
from gpu.errors import ModelUnusable
from gpu.generate.memory import choose_device
from gpu.generate.prompt import make_prompt
from gpu.generate.sampling import choose_sampling, end_tokens, generation_config
from gpu.generate.stream import StopRequested, TextStream
from gpu.model.base import base_directory
from gpu.model.build import TrainedModel, build, load_weights, set_eval_mode
from gpu.model.held_weights import compute_in_float32
from gpu.model.limits import read_limits
from gpu.model.tokenizer import explain_load_errors, load_saved_tokenizer, load_tokenizer
from gpu.runtime.arithmetic import Arithmetic, autocasts, choose_arithmetic
from gpu.runtime.determinism import enable_determinism, seed_generators


@dataclass(frozen=True)
class _Files:
    """The places of the parts of a model."""

    settings: JobSettings
    """The settings that it was trained with; the model's place is that of the config."""
    weights: Path
    """The directory of the weights, without those of a checkpoint."""
    tokenizer: Path | None
    """None: the tokenizer of the settings."""
    manifest: Manifest | None = None
    """The manifest of the checkpoint."""

    def form(self, device: Device) -> tuple[object, ...]:
        """Return what decides the bits of the base in memory."""
        settings, method = self.settings, self.settings.method
        quantized = (method.quant_type, method.double_quant) if isinstance(method, QloraSettings) else ()
        kind = "adapter" if isinstance(method, AdapterSettings) else "full"
        return (device, self.weights, settings.model, kind, quantized, settings.training.precision)


@dataclass
class _Loaded:
    """A model that answers."""

    model: Any
    trained: TrainedModel | None
    """The model with the parameters of a checkpoint; None for a base or a version."""
    method: MethodSettings
    """The method of the trained parameters."""
    form: tuple[object, ...]
    tokenizer: Any
    encoder: Encoder
    arithmetic: Arithmetic
    training_threads: int
    """CPU threads of its training; 0: one for each core."""
    context_tokens: int | None
    ends: list[int]
    """Tokens that end an answer."""


class Generator:
    """Holds at most one model. Not safe for several threads."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._loaded: _Loaded | None = None
        self._key: tuple[ModelSource, Device] | None = None
        self._report: ModelLoaded | None = None

    def load(self, request: int, source: ModelSource, device: Device, budget: MemoryBudget) -> ModelLoaded:
        """Load a model, unless it is in memory.

        Raises WorkerError and the errors of the libraries: OSError, ValueError, RuntimeError.
        """
        if self._report is not None and self._loaded is not None and self._key == (source, device):
            _use_threads(self._loaded.training_threads, budget)
            return replace(self._report, request=request, notes=(), seconds=0.0)
        began = time.monotonic()
        files = _find_files(self._home, source)
        notes: tuple[str, ...] = ()
        if (loaded := self._loaded) is None or not _can_switch(loaded, files, device):
            self.discard()  # memory may not hold two models
            loaded = None
            chosen = choose_device(device, files.weights, files.settings, budget)
            notes, on = chosen.notes, _prepare(chosen.device, files.settings, budget)
            arithmetic = choose_arithmetic(files.settings.training.precision, on, {})
            model, trained = _load_weights(self._home, source, files, on, arithmetic)
            method = files.settings.method
        else:
            self._key = None  # until it is complete
            model, trained, arithmetic = loaded.model, loaded.trained, loaded.arithmetic
            method = loaded.method
            _prepare(model.device.type, files.settings, budget)
            _switch(self._home, trained, files)
        self._loaded = loaded = _Loaded(
            model=model,
            trained=trained,
            method=method,
            form=files.form(device),
            arithmetic=arithmetic,
            training_threads=files.settings.training.threads,
            **_read_tokenizer(self._home, files, model),
        )
        self._key = (source, device)
        self._report = ModelLoaded(
            request=request,
            device=model.device.type,
            dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
            arithmetic=arithmetic,
            context_tokens=loaded.context_tokens,
            has_chat_template=loaded.encoder.has_chat_template,
            notes=notes,
            seconds=time.monotonic() - began,
        )
        return self._report

    def discard(self) -> None:
        """Drop the model and free its memory."""
        self._loaded = self._key = self._report = None
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def generate(
        self,
        request: int,
        messages: Sequence[ChatMessage],
        sampling: Sampling,
        send: Callable[[GenerationStarted], None],
        show: Callable[[str], None],
        is_stopped: Callable[[], bool],
        *,
        stop: Sequence[str] = (),
        shorten: bool = True,
        plain: bool = False,
    ) -> GenerationFinished:
        """Answer a dialogue. `send` receives the beginning, `show` each piece of text.

        `stop`, `shorten`, `plain`: see `events.generation.Generate`.

        Raises PromptRefused, ValueError without a model, RuntimeError.
        """
        if (loaded := self._loaded) is None:
            raise ValueError("no model is loaded")
        used = choose_sampling(sampling, loaded.model.generation_config)
        prompt = make_prompt(
            loaded.encoder, messages, loaded.context_tokens, used.max_tokens, shorten=shorten, plain=plain
        )
        send(GenerationStarted(request=request, prompt_tokens=len(prompt.ids), dropped=prompt.dropped, sampling=used))
        began = time.monotonic()
        stream = TextStream(loaded.tokenizer, show, stop)
        device = loaded.model.device
        ids = torch.tensor([prompt.ids], device=device)
        seed_generators("generate", used.seed)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=autocasts(loaded.arithmetic)):
            loaded.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=generation_config(
                    loaded.model.generation_config, used, prompt.tokens_max, loaded.ends, padding=prompt.ids[0]
                ),
                streamer=stream,
                stopping_criteria=[StopRequested(lambda: stream.stop_found or is_stopped())],
            )
        finish: Finish = "length" if prompt.tokens_max == used.max_tokens else "context"
        if stream.stop_found:
            finish = "stop_text"
        elif stream.tokens[-1:] and stream.tokens[-1] in loaded.ends:
            finish = "end"
        elif len(stream.tokens) < prompt.tokens_max:
            finish = "stopped"
        seconds = time.monotonic() - began
        return GenerationFinished(request=request, finish=finish, tokens=len(stream.tokens), seconds=seconds)


# -- load -----------------------------------------------------------------------------------------------------------


def _find_files(home: Path, source: ModelSource) -> _Files:
    """Find and check the files of a model. Raises CheckpointBroken, ArtifactBroken, ModelUnusable, OSError,
    ValueError."""
    settings = _without_code(source.settings)
    if source.checkpoint is not None:
        directory = home / "checkpoints" / source.checkpoint
        manifest = CheckpointDirectory(directory).read(source.manifest_sha256)
        settings = _as_trained(settings, manifest)
        weights = training_base(home, source.version) if source.version else _origin(settings, home)
        return _Files(settings, weights, directory, manifest)
    if source.version is not None:
        directory = version_directory(home, source.version)
        manifest = VersionDirectory(directory).verify(source.manifest_sha256, every_byte=False).checkpoint
        return _Files(_as_trained(settings, manifest), directory, directory)
    return _Files(settings, _origin(settings, home), None)


def _without_code(settings: JobSettings) -> JobSettings:
    return replace(settings, model=replace(settings.model, trust_remote_code=False))


def _as_trained(settings: JobSettings, manifest: Manifest) -> JobSettings:
    """Return the settings of the manifest, with the model's place of the config: a home can move.

    The SHA-256 of the base decides whether it is the same model.
    """
    trained = _without_code(manifest.lineage.settings)
    return replace(trained, model=replace(trained.model, path=settings.model.path, revision=settings.model.revision))


def _origin(settings: JobSettings, home: Path) -> Path:
    with explain_load_errors(f"the model {settings.model.path}"):
        return base_directory(settings.model.path, home, revision=settings.model.revision)


def _use_threads(training_threads: int, budget: MemoryBudget) -> None:
    """Compute with the CPU threads of the training; while it runs, with those that it leaves.

    A thread that waits for a core delays all others of the answer: next to a training that uses both of two cores, two
    threads gave fewer than a tenth of the tokens that one gave.
    """
    threads = training_threads or core_count()
    if budget.trains:
        taken = core_count() // 2 if torch.cuda.is_available() else threads  # a GPU leaves most of the CPU
        threads = max(1, core_count() - taken)
    torch.set_num_threads(threads)


def _prepare(device: str, settings: JobSettings, budget: MemoryBudget) -> torch.device:
    """Make this process's arithmetic repeatable, and return the device."""
    found = enable_determinism(settings.training.threads)
    _use_threads(settings.training.threads, budget)
    # Some operations of sampling have no deterministic form on a GPU; the seed still decides the draws.
    torch.use_deterministic_algorithms(True, warn_only=True)
    return found if device == "cuda" else torch.device("cpu")


def _load_weights(
    home: Path, source: ModelSource, files: _Files, device: torch.device, arithmetic: Arithmetic
) -> tuple[Any, TrainedModel | None]:
    """Return the model, and the same with its trained parameters if it is a checkpoint."""
    trained = None
    if files.manifest is not None:
        trained = build(files.settings, home, device, version=source.version, arithmetic=arithmetic)
        _load_checkpoint(home, trained, files, files.manifest)
    model = _load_whole(source, files, device, arithmetic) if trained is None else trained.model
    set_eval_mode(model)
    return model, trained


def _can_switch(loaded: _Loaded, files: _Files, device: Device) -> bool:
    """True if the model in memory becomes the one of `files` by its adapter or its trained weights alone."""
    if loaded.trained is None or loaded.form != files.form(device):
        return False
    return loaded.method == files.settings.method if files.manifest else bool(loaded.trained.adapted)


def _switch(home: Path, trained: TrainedModel | None, files: _Files) -> None:
    """Load the checkpoint of `files` into the model in memory, or switch its adapter off for its base."""
    assert trained is not None  # `_can_switch`
    if files.manifest is None:
        trained.model.base_model.disable_adapter_layers()
        return
    if trained.adapted:
        trained.model.base_model.enable_adapter_layers()
    _load_checkpoint(home, trained, files, files.manifest)


def _read_tokenizer(home: Path, files: _Files, model: Any) -> dict[str, Any]:
    """Return the tokenizer of a model, and what follows from both."""
    settings = files.settings
    if files.tokenizer is None:
        tokenizer = load_tokenizer(settings.model, home)
    else:
        with explain_load_errors(f"the tokenizer of {files.tokenizer.name}"):
            tokenizer = load_saved_tokenizer(files.tokenizer)
    encoder = Encoder(tokenizer, settings.data)
    limits = read_limits(files.weights)
    return {
        "tokenizer": tokenizer,
        "encoder": encoder,
        "context_tokens": limits.positions if limits.positions is not None else limits.trained_positions,
        "ends": end_tokens(model, tokenizer, encoder.end_of_turn),
    }


def _load_checkpoint(home: Path, trained: TrainedModel, files: _Files, manifest: Manifest) -> None:
    """Load the weights of a checkpoint into its base. Raises CheckpointBroken, CheckpointForeign."""
    target = TrainingTarget(
        settings=files.settings,
        parameters=trained.shapes,
        base_sha256=trained.base_sha256,
        tokenizer_sha256=manifest.lineage.tokenizer_sha256,  # the checkpoint's own tokenizer is used
        buffers=trained.buffer_kinds,
    )
    checkpoint.load(home / "checkpoints" / manifest.checkpoint, trained, None, target)


def _load_whole(source: ModelSource, files: _Files, device: torch.device, arithmetic: Arithmetic) -> Any:
    """Return a base or a version. Raises ModelUnusable."""
    name = source.version or files.settings.model.path
    if source.version and (problem := find_base_problem(files.weights, files.weights)) is not None:
        raise ModelUnusable(f"versions/{source.version} is not what was published: {problem}. Restore its files.")
    with explain_load_errors(f"the model {name}"):
        model = load_weights(files.weights, files.settings, device, arithmetic)
    model.requires_grad_(False)
    if not autocasts(arithmetic):
        compute_in_float32(model)
    return model.to(device)
