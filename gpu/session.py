"""What the worker keeps between orders: tokenizer, model, optimizer, and where exactly they stand.

Importing torch and loading a model costs many seconds, so nothing is loaded that is already there. Going on from
memory gives the same bits as going on from the checkpoint: what is in memory is what was written.
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

from events.settings import JobSettings, MethodSettings, ModelSettings
from events.values import ARITHMETIC, CheckpointId, JobId, VersionId
from events.worker import Consolidate, Loaded, Prepare, Prepared, Train
from gpu.artifacts import checkpoint
from gpu.artifacts.compatibility import Ground
from gpu.artifacts.manifest import Manifest, read_manifest
from gpu.data.plan.cache import token_cache
from gpu.data.plan.prepare import PreparedJob, prepare
from gpu.data.processes.encoder_pool import core_count, preparation_context
from gpu.data.template.fingerprint import tokenizer_sha256
from gpu.errors import CheckpointBroken, YieldRequested
from gpu.ipc.worker_channel import Heartbeats, WorkerChannel
from gpu.model.build import TrainedModel, build
from gpu.model.tokenizer import files_to_keep, kept_sha256, load_tokenizer
from gpu.runtime.arithmetic import Arithmetic, choose_arithmetic
from gpu.runtime.determinism import enable_determinism, environment
from gpu.training.loop import Training
from gpu.training.packing_check import refuse_what_cannot_be_packed
from gpu.training.saver import Saver
from gpu.versions.consolidate import consolidate
from gpu.versions.rehearsal import rehearse
from journal.durable import read_file
from journal.failpoints import failpoint

log = logging.getLogger(__name__)


@dataclass
class _Tokenizer:
    settings: ModelSettings
    tokenizer: Any
    sha256: str
    files: Mapping[str, bytes]


@dataclass
class _Model:
    settings: tuple[ModelSettings, MethodSettings, VersionId | None, Arithmetic, int]
    trained: TrainedModel
    optimizer: torch.optim.AdamW
    fresh: bool
    """Nothing was learned yet: it is as it was built."""
    stands_at: CheckpointId | None


class Session:
    """Carries out orders, one at a time, on one home."""

    def __init__(self, home: Path, channel: WorkerChannel, scratch: Path | None = None) -> None:
        """`scratch`: where checkpoints are read from and written to, and tokens are kept; by default the home's own
        places for them."""
        self._home = home
        self._is_home = scratch is None
        self._checkpoints = scratch or home / "checkpoints"
        self._cache = token_cache(home, scratch)
        self._channel = channel
        self._tokenizer: _Tokenizer | None = None
        self._model: _Model | None = None
        self._prepared: tuple[int, PreparedJob] | None = None

    def prepare(self, order: Prepare) -> None:
        """Raises RowRejected, DataChanged, ModelUnusable, StorageFailed, EncoderLost, YieldAsked."""
        failpoint("prepare_asked")
        heartbeats = Heartbeats(self._channel, order.attempt)
        heartbeats.beat("load", 0, 1, force=True)
        self._prepared = None
        tokenizer = self._tokenizer_for(order.settings.model)
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
        self._channel.tell(Prepared(attempt=order.attempt, plan=prepared.plan))
        failpoint("prepared_reported")

    def train(self, order: Train) -> None:
        """Raises CheckpointBroken, CheckpointForeign, ModelUnusable, StorageFailed, TrainingDiverged, DoesNotFit,
        EvaluationFailed, and YieldAsked while the model is loaded."""
        if self._prepared is None or self._prepared[0] != order.attempt:
            raise ValueError(f"attempt {order.attempt} was told to train before it was prepared")
        failpoint("loading")
        prepared = self._prepared[1]
        heartbeats = Heartbeats(self._channel, order.attempt)
        device = enable_determinism(prepared.settings.training.threads)
        computes_in = choose_arithmetic(prepared.settings.training.precision, device, order.environment)
        heartbeats.beat("load", 0, 1, force=True)
        model = self._model_for(order, prepared, device, computes_in, heartbeats)
        self._rehearse(order, prepared.settings, model.trained, heartbeats)
        history = self._history(order, prepared.job)
        heartbeats.beat("load", 1, 1, force=True)
        training = Training(
            attempt=order.attempt,
            prepared=prepared,
            trained=model.trained,
            optimizer=model.optimizer,
            tokenizer_files=self._tokenizer_for(prepared.settings.model).files,
            environment={**environment(device, model.trained.libraries), ARITHMETIC: computes_in},
            global_step=order.global_step,
            step=order.step,
            until=order.until,
            saved_step=order.step,
            stands_at=model.stands_at,
            history=history,
            course=order.course,
            evaluates=order.evaluates,
            evaluated_to=order.evaluated_to,
        )
        failpoint("loaded")
        self._channel.tell(
            Loaded(attempt=order.attempt, environment=training.environment, trained=model.trained.summary)
        )
        failpoint("loaded_reported")
        saver = Saver(self._checkpoints, prepared.settings.checkpoints, self._channel, heartbeats, order.checkpoint)
        model.fresh, model.stands_at = False, None
        training.run(self._channel, saver, heartbeats)
        model.stands_at = training.stands_at

    def consolidate(self, order: Consolidate) -> None:
        """Make a version of what was learned. Raises as `gpu.versions.consolidate.consolidate`."""
        self.forget()  # the memory is needed, and what comes next is built on the version
        consolidate(self._home, order, self._channel)

    def forget(self) -> None:
        """After a failure, whatever is in memory is not to be trusted."""
        self._model = self._prepared = None
        _release_memory()

    def _tokenizer_for(self, settings: ModelSettings) -> _Tokenizer:
        if self._tokenizer is None or self._tokenizer.settings != settings:
            tokenizer = load_tokenizer(settings, self._home)
            sha256 = tokenizer_sha256(tokenizer)
            files = files_to_keep(tokenizer, settings, self._home, sha256)
            self._tokenizer = _Tokenizer(settings, tokenizer, sha256, files)
        return self._tokenizer

    def _model_for(
        self, order: Train, prepared: PreparedJob, device: torch.device, computes_in: Arithmetic, heartbeats: Heartbeats
    ) -> _Model:
        """The model, standing where the order says."""
        done = 0

        def watch(chunk: bytes) -> None:
            nonlocal done
            done += len(chunk)
            heartbeats.beat("load", done, done)
            if self._channel.yield_requested():
                failpoint("yield_seen")
                raise YieldRequested("nothing was trained: loading begins again with the next attempt")

        fresh = order.checkpoint is None
        model = self._built(prepared.settings, order.base, device, computes_in, watch, fresh=fresh)
        if prepared.settings.data.packing:
            refuse_what_cannot_be_packed(model.trained)
        if order.checkpoint is not None and model.stands_at != order.checkpoint:
            model.fresh, model.stands_at = False, None
            directory = self._checkpoints / order.checkpoint
            ground = self._ground(read_manifest(directory), order, prepared, model.trained)
            manifest = checkpoint.load(directory, model.trained, model.optimizer, ground, watch)
            if manifest.cursor.global_step != order.global_step:
                raise ValueError(f"{order.checkpoint} stands at {manifest.cursor}, the order says {order}")
            model.stands_at = order.checkpoint
        if order.step == 0 and not order.carry_optimizer:
            checkpoint.reset_moments(model.trained, model.optimizer)
        return model

    def _rehearse(self, order: Train, settings: JobSettings, trained: TrainedModel, heartbeats: Heartbeats) -> None:
        """Prove that a version can be made of what is about to be trained. Raises ModelUnusable, YieldAsked."""
        if not self._is_home:
            return  # steps that are run again were proven when they were run

        def beat() -> None:
            heartbeats.beat("load", 0, 1)
            if self._channel.yield_requested():
                failpoint("yield_seen")
                raise YieldRequested("nothing was trained: the rehearsal begins again with the next attempt")

        done = rehearse(trained, settings, self._home, order.base, self._tokenizer_for(settings.model).files, beat)
        if done.how != "known":
            log.info("rehearsed the way to a version in %.1f s (%s)", done.seconds, done.how)

    def _ground(self, manifest: Manifest, order: Train, prepared: PreparedJob, trained: TrainedModel) -> Ground:
        """What the checkpoint of this manifest has to belong to."""
        tokenizer = prepared.plan.tokenizer_sha256
        if manifest.lineage.tokenizer_sha256 != tokenizer == kept_sha256(self._checkpoints / manifest.checkpoint):
            tokenizer = manifest.lineage.tokenizer_sha256
        cursor = manifest.cursor
        goes_on = order.step > 0 and (cursor.job, cursor.step) == (prepared.job, order.step)
        return Ground(
            settings=prepared.settings,
            parameters=trained.shapes,
            base_sha256=trained.base_sha256,
            tokenizer_sha256=tokenizer,
            buffers=trained.kinds_of_buffers,
            batches_sha256=prepared.plan.batches_sha256 if goes_on else None,
        )

    def _built(
        self,
        settings: JobSettings,
        base: VersionId | None,
        device: torch.device,
        computes_in: Arithmetic,
        watch: Callable[[bytes], None],
        *,
        fresh: bool,
    ) -> _Model:
        """A model of these settings beside this base: the one in memory if it will do, else a new one."""
        # The seed decides only what LoRA begins with, but the next job of the same settings may need just that.
        key = (settings.model, settings.method, base, computes_in, settings.training.seed)
        model = self._model
        if model is None or model.settings[:-1] != key[:-1] or (fresh and not (model.fresh and model.settings == key)):
            self._model = model = None  # two models may not fit
            _release_memory()
            trained = build(settings, self._home, device, watch, version=base, arithmetic=computes_in)
            optimizer = torch.optim.AdamW(trained.parameters.values())
            checkpoint.reset_moments(trained, optimizer)
            self._model = model = _Model(key, trained, optimizer, fresh=True, stands_at=None)
        return model

    def _history(self, order: Train, job: JobId) -> list[dict[str, Any]]:
        """What this job has logged so far. A log is one job's: behind a checkpoint of another, a new one begins."""
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
    """Give what a dropped model held back to the GPU. Models hold references in circles, so collect first."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
