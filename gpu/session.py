"""The worker's state between orders: tokenizer, model, optimizer, and the checkpoint that they are equal to.

Importing torch and loading a model take many seconds, so nothing is loaded twice. Continuing from memory gives the same
bits as loading the checkpoint: memory holds what was written.
"""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from events.messages import Consolidate, EvaluateVersion, Loaded, Prepare, Prepared, Train
from events.settings import JobSettings, MethodSettings, ModelSettings
from events.values import CheckpointId, JobId, VersionId
from gpu.artifacts import checkpoint
from gpu.artifacts.compatibility import TrainingTarget
from gpu.artifacts.manifest import Manifest, read_manifest
from gpu.data.plan.cache import token_cache
from gpu.data.plan.prepare import PreparedJob, prepare
from gpu.data.processes.encoder_pool import core_count, preparation_context
from gpu.data.template.fingerprint import tokenizer_sha256
from gpu.errors import CheckpointBroken, YieldRequested
from gpu.evaluation.job_end import JobEnd
from gpu.evaluation.version import evaluate_version
from gpu.ipc.worker_channel import Heartbeats, WorkerChannel
from gpu.kernels.choose import Kernels, install_kernels, wanted_kernels
from gpu.model.build import TrainedModel, build
from gpu.model.tokenizer import comparable_sha256, load_limits, load_tokenizer, tokenizer_files_to_save
from gpu.runtime.arithmetic import Arithmetic, choose_arithmetic
from gpu.runtime.determinism import enable_determinism
from gpu.training.attempt import Attempt
from gpu.training.gradient_checkpointing import decide_gradient_checkpointing
from gpu.training.loop import Training
from gpu.training.packing_check import refuse_unpackable
from gpu.training.rounds.corrector import Corrector
from gpu.training.rounds.sampler import Sampler
from gpu.training.saver import Saver
from gpu.versions.consolidate import consolidate
from gpu.versions.rehearsal import rehearse
from journal.durable import read_file
from journal.failpoints import failpoint

log = logging.getLogger(__name__)


@dataclass
class _LoadedTokenizer:
    """A tokenizer, its fingerprint, and the files that a checkpoint keeps of it."""

    settings: ModelSettings
    tokenizer: Any
    sha256: str
    files: Mapping[str, bytes]


@dataclass
class _LoadedModel:
    """A model with its optimizer."""

    settings: tuple[ModelSettings, MethodSettings, VersionId | None, Arithmetic, Kernels, int]
    trained: TrainedModel
    optimizer: torch.optim.AdamW
    untrained: bool
    """True until the first step or load: the weights are those of `build`."""
    at_checkpoint: CheckpointId | None


class Session:
    """Carries out orders for one home, one at a time."""

    def __init__(self, home: Path, channel: WorkerChannel, scratch: Path | None = None) -> None:
        """`scratch`: a directory for checkpoints and tokens, in place of those of the home."""
        self._home = home
        self._is_home = scratch is None
        self._checkpoints = scratch or home / "checkpoints"
        self._cache = token_cache(home, scratch)
        self._channel = channel
        self._tokenizer: _LoadedTokenizer | None = None
        self._model: _LoadedModel | None = None
        self._prepared: tuple[int, PreparedJob] | None = None

    def prepare(self, order: Prepare) -> None:
        """Encode the job's data and plan its batches.

        Raises RowRejected, DataChanged, ModelUnusable, StorageFailed, EncoderLost, YieldRequested.
        """
        failpoint("prepare_asked")
        heartbeats = Heartbeats(self._channel, order.attempt)
        heartbeats.beat("load", 0, 1, force=True)
        self._prepared = None
        tokenizer = self._load_tokenizer(order.settings.model)
        heartbeats.beat("load", 1, 1, force=True)
        path = self._home / "data" / f"{order.job}.jsonl"
        how = preparation_context(
            self._home,
            order.settings,
            tokenizer.tokenizer,
            tokenizer.sha256,
            self._cache,
            core_count(),
            records=self._is_home,
        )
        prepared = prepare(path, order.job, order.name, order.settings, how, self._channel, heartbeats)
        self._prepared = (order.attempt, prepared)
        failpoint("prepared")
        self._channel.send(Prepared(attempt=order.attempt, plan=prepared.plan))
        failpoint("prepared_reported")

    def train(self, order: Train) -> None:
        """Load the checkpoint if memory does not hold it, and train.

        Raises CheckpointBroken, CheckpointForeign, ModelUnusable, StorageFailed, TrainingDiverged, MicrobatchTooLarge,
        EvaluationFailed, SamplingFailed, CorrectionFailed; YieldRequested while the model is loaded.
        """
        if self._prepared is None or self._prepared[0] != order.attempt:
            raise ValueError(f"attempt {order.attempt} was ordered to train before it was prepared")
        failpoint("loading")
        prepared = self._prepared[1]
        heartbeats = Heartbeats(self._channel, order.attempt)
        device = enable_determinism(prepared.settings.training.threads)
        arithmetic = choose_arithmetic(prepared.settings.training.precision, device, order.environment)
        kernels = wanted_kernels(prepared.settings, order.environment, device)
        heartbeats.beat("load", 0, 1, force=True)
        model = self._load_model(order, prepared, device, arithmetic, kernels, heartbeats)
        decide_gradient_checkpointing(prepared, model.trained, self._home)
        self._rehearse(order, prepared.settings, model.trained, heartbeats)
        history = self._history(order, prepared.job)
        heartbeats.beat("load", 1, 1, force=True)
        attempt = self._attempt(order, prepared, model.trained, heartbeats)
        plan, budget = order.sample_plan, order.samples
        training = Training(
            attempt=order.attempt,
            prepared=prepared,
            trained=model.trained,
            optimizer=model.optimizer,
            tokenizer_files=self._load_tokenizer(prepared.settings.model).files,
            environment=model.trained.environment,
            global_step=order.global_step,
            step=order.step,
            until=order.until,
            saved_step=order.step,
            at_checkpoint=model.at_checkpoint,
            history=history,
            course=order.course,
            evaluates=order.evaluates,
            evaluated_to=order.evaluated_to,
            sampler=Sampler(attempt, plan, budget) if plan is not None and budget is not None else None,
            corrector=Corrector(attempt, order.correction) if self._is_home else None,
            job_end=JobEnd(attempt, order.suites) if order.suites is not None and self._is_home else None,
        )
        failpoint("loaded")
        self._channel.send(
            Loaded(attempt=order.attempt, environment=training.environment, trained=model.trained.summary)
        )
        failpoint("loaded_reported")
        saver = Saver(self._checkpoints, prepared.settings.checkpoints, self._channel, heartbeats, order.checkpoint)
        model.untrained, model.at_checkpoint = False, None
        training.run(self._channel, saver, heartbeats)
        model.at_checkpoint = training.at_checkpoint

    def consolidate(self, order: Consolidate) -> None:
        """Merge a checkpoint into a version. Raises as `gpu.versions.consolidate.consolidate`."""
        self.discard()  # the merge needs the memory, and the next job starts from the version
        consolidate(self._home, order, self._channel)

    def evaluate_version(self, order: EvaluateVersion) -> None:
        """Evaluate a version and its parent. Raises as `gpu.evaluation.version.evaluate_version`."""
        self.discard()  # memory may not hold two models
        evaluate_version(self._home, order, self._channel)

    def discard(self) -> None:
        """Drop the model: after a failure its state in memory cannot be trusted."""
        self._model = self._prepared = None
        _release_memory()

    def _attempt(self, order: Train, prepared: PreparedJob, trained: TrainedModel, heartbeats: Heartbeats) -> Attempt:
        model = prepared.settings.model
        return Attempt(
            number=order.attempt,
            home=self._home,
            prepared=prepared,
            trained=trained,
            tokenizer=lambda: self._load_tokenizer(model).tokenizer,
            limits=lambda: load_limits(model, self._home),
            channel=self._channel,
            heartbeats=heartbeats,
        )

    def _load_tokenizer(self, settings: ModelSettings) -> _LoadedTokenizer:
        if self._tokenizer is None or self._tokenizer.settings != settings:
            tokenizer = load_tokenizer(settings, self._home)
            sha256 = tokenizer_sha256(tokenizer)
            files = tokenizer_files_to_save(tokenizer, settings, self._home, sha256)
            self._tokenizer = _LoadedTokenizer(settings, tokenizer, sha256, files)
        return self._tokenizer

    def _load_model(
        self,
        order: Train,
        prepared: PreparedJob,
        device: torch.device,
        arithmetic: Arithmetic,
        kernels: Kernels,
        heartbeats: Heartbeats,
    ) -> _LoadedModel:
        """Return the model in the state that the order starts from."""
        done = 0

        def watch(chunk: bytes) -> None:
            nonlocal done
            done += len(chunk)
            heartbeats.beat("load", done, done)
            if self._channel.yield_requested():
                failpoint("yield_seen")
                raise YieldRequested("nothing was trained; the next attempt loads the model again")

        untrained = order.checkpoint is None
        how = (device, arithmetic, kernels)
        model = self._build_model(prepared.settings, order.base, *how, watch, untrained=untrained)
        if prepared.settings.data.packing:
            refuse_unpackable(model.trained)
        if order.checkpoint is not None and model.at_checkpoint != order.checkpoint:
            model.untrained, model.at_checkpoint = False, None
            directory = self._checkpoints / order.checkpoint
            target = self._target(read_manifest(directory), order, prepared, model.trained)
            manifest = checkpoint.load(directory, model.trained, model.optimizer, target, watch)
            if manifest.cursor.global_step != order.global_step:
                raise ValueError(f"{order.checkpoint} is at {manifest.cursor}, the order says {order}")
            model.at_checkpoint = order.checkpoint
        if order.step == 0 and not order.carry_optimizer:
            checkpoint.reset_moments(model.trained, model.optimizer)
        return model

    def _rehearse(self, order: Train, settings: JobSettings, trained: TrainedModel, heartbeats: Heartbeats) -> None:
        """Check that this training can become a version. Raises ModelUnusable, YieldRequested."""
        if not self._is_home:
            return  # a rerun repeats steps that were rehearsed before

        def beat() -> None:
            heartbeats.beat("load", 0, 1)
            if self._channel.yield_requested():
                failpoint("yield_seen")
                raise YieldRequested("nothing was trained; the next attempt rehearses again")

        done = rehearse(trained, settings, self._home, order.base, self._load_tokenizer(settings.model).files, beat)
        if done.how != "known":
            log.info("rehearsed a consolidation in %.1f s (%s)", done.seconds, done.how)

    def _target(self, manifest: Manifest, order: Train, prepared: PreparedJob, trained: TrainedModel) -> TrainingTarget:
        """Return what the checkpoint of this manifest must fit."""
        recorded, directory = manifest.lineage.tokenizer_sha256, self._checkpoints / manifest.checkpoint
        cursor = manifest.cursor
        resumes = order.step > 0 and (cursor.job, cursor.step) == (prepared.job, order.step)
        return TrainingTarget(
            settings=prepared.settings,
            parameters=trained.shapes,
            base_sha256=trained.base_sha256,
            tokenizer_sha256=comparable_sha256(prepared.plan.tokenizer_sha256, recorded, directory),
            buffers=trained.buffer_kinds,
            batches_sha256=prepared.plan.batches_sha256 if resumes else None,
        )

    def _build_model(
        self,
        settings: JobSettings,
        base: VersionId | None,
        device: torch.device,
        arithmetic: Arithmetic,
        kernels: Kernels,
        watch: Callable[[bytes], None],
        *,
        untrained: bool,
    ) -> _LoadedModel:
        """Return a model of these settings on this base: the one in memory if it fits, else a new one."""
        # The seed decides the initial LoRA weights, which only an untrained model still has.
        key = (settings.model, settings.method, base, arithmetic, kernels, settings.training.seed)
        model = self._model
        if (
            model is None
            or model.settings[:-1] != key[:-1]
            or (untrained and not (model.untrained and model.settings == key))
        ):
            self._model = model = None  # memory may not hold two models
            _release_memory()
            trained = build(settings, self._home, device, watch, version=base, arithmetic=arithmetic)
            install_kernels(trained, kernels)
            optimizer = torch.optim.AdamW(trained.parameters.values())
            checkpoint.reset_moments(trained, optimizer)
            self._model = model = _LoadedModel(key, trained, optimizer, untrained=True, at_checkpoint=None)
        return model

    def _history(self, order: Train, job: JobId) -> list[dict[str, Any]]:
        """Return the log of this job up to its checkpoint; [] if the checkpoint belongs to another job."""
        if order.step == 0 or order.checkpoint is None:
            return []
        directory = self._checkpoints / order.checkpoint
        if read_manifest(directory).cursor.job != job:
            return []
        path = directory / checkpoint.STATE_FILE
        try:
            return list(json.loads(read_file(path))["log_history"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointBroken(order.checkpoint, f"{path.name} cannot be read: {error}") from error


def _release_memory() -> None:
    """Return the memory of a dropped model to the GPU. Models have reference cycles, so collect first."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
