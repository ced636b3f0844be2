"""The training loop.

Everything that a resume needs is in `Training`: the prepared job, the model, the optimizer, where they stand, and
what was logged. All else follows from the step's number.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from events.kinds import CheckpointReason
from events.values import CheckpointId, checkpoint_id, number
from events.worker import Step
from gpu.checkpoint import STATE_FILE, Snapshot, copied
from gpu.collate import collate
from gpu.crashpoints import reached
from gpu.data.batches import Batch, MicroBatch
from gpu.data.prepare import PreparedJob
from gpu.desk import Desk, Pulse
from gpu.errors import TrainingDiverged
from gpu.exact import seed_generators
from gpu.manifest import Cursor, Lineage
from gpu.model import TrainedModel
from gpu.saver import Saver
from gpu.schedule import learning_rate


@dataclass
class Training:
    """A job being learned, by one attempt."""

    attempt: int
    prepared: PreparedJob
    trained: TrainedModel
    optimizer: torch.optim.AdamW
    tokenizer_files: Mapping[str, bytes]
    environment: dict[str, str]
    global_step: int
    step: int
    until: int
    """The step of this job to end at."""
    saved_step: int
    """The step that the newest checkpoint holds, in flight or committed."""
    stands_at: CheckpointId | None
    """The checkpoint that holds exactly what is in memory; None in between."""
    history: list[dict[str, Any]]

    def run(self, desk: Desk, saver: Saver, pulse: Pulse) -> None:
        """Train to the end, or to the step boundary at which the daemon asks to yield.

        Every step that was reported is committed when this returns. Raises StorageFailed, TrainingDiverged.
        """
        batches = self.prepared.batches
        while self.step < self.until and not desk.yield_asked():
            # Step.
            batch = batches.step(self.step + 1)
            report = self._learn(batch, pulse)

            # Log.
            self._log(report)
            reached("step")
            desk.tell(report)

            # Save.
            if self.step < self.until and (reason := saver.due(self.step - self.saved_step)):
                saver.begin(self._snapshot(reason, batch.epoch, saver.parent))

        if self.step < self.until:
            reached("yield_seen")

        # The end, or a pause: nothing that was reported stays uncommitted.
        saver.finish()
        if self.step > self.saved_step:
            reason = "end" if self.step == self.until else "yield"
            saver.begin(self._snapshot(reason, batches.step(self.step).epoch, saver.parent))
            saver.finish()

    def _learn(self, batch: Batch, pulse: Pulse) -> Step:
        """One optimizer step: the loss is the mean over all trained tokens of the step, however they are split."""
        began = time.perf_counter()
        settings, tokens = self.prepared.settings.training, self.prepared.tokens
        step, steps_total = self.step + 1, self.prepared.batches.steps_total
        rate = learning_rate(step, steps_total, settings)
        rows = batch.rows
        trained_tokens = sum(tokens.trained_in(row) for row in rows)
        parameters = list(self.trained.parameters.values())
        self.stands_at = None

        loss = torch.zeros((), device=self.trained.device)
        for index, micro_batch in enumerate(batch.micro_batches):
            seed_generators("step", settings.seed, self.global_step + 1, index)
            micro_loss = self._micro_loss(micro_batch) / trained_tokens
            micro_loss.backward()
            loss += micro_loss.detach()
            done = (step - 1) * settings.gradient_accumulation + index + 1
            pulse.beat("step", done, steps_total * settings.gradient_accumulation)

        if settings.max_grad_norm > 0:
            norm = torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        else:
            norm = torch.nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
        loss_value, norm_value = float(loss), float(norm)
        if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
            # The optimizer would write it into every weight.
            raise TrainingDiverged(self.global_step + 1, f"loss {loss_value}, gradient norm {norm_value}")
        for group in self.optimizer.param_groups:
            group["lr"], group["weight_decay"] = rate, settings.weight_decay
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.global_step += 1
        return Step(
            attempt=self.attempt,
            global_step=self.global_step,
            step=self.step,
            epoch=batch.epoch,
            loss=number(loss_value),
            grad_norm=number(norm_value),
            learning_rate=rate,
            tokens=sum(tokens.length(row) for row in rows),
            seconds=time.perf_counter() - began,
        )

    def _micro_loss(self, micro_batch: MicroBatch) -> torch.Tensor:
        """The sum of the cross-entropies of the trained tokens of a micro-batch."""
        packing = self.prepared.settings.data.packing
        inputs = collate(self.prepared.tokens, micro_batch, self.trained.device, packing=packing)
        bf16 = self.prepared.settings.training.precision == "bf16"
        with torch.autocast(self.trained.device.type, torch.bfloat16, enabled=bf16):
            logits = self.trained.logits(inputs)
        return cross_entropy(logits.flatten(0, 1).float(), inputs.targets.flatten(), reduction="sum")

    def _log(self, step: Step) -> None:
        entry = {"loss": step.loss, "grad_norm": step.grad_norm, "learning_rate": step.learning_rate}
        epoch = step.step / self.prepared.batches.steps_per_epoch
        self.history.append({"epoch": epoch, "step": step.global_step, **entry})

    def _snapshot(self, reason: CheckpointReason, epoch: int, parent: CheckpointId | None) -> Snapshot:
        """A copy of all that the next step would change."""
        prepared, batches = self.prepared, self.prepared.batches
        weights, optimizer = copied(self.trained, self.optimizer)
        checkpoint = checkpoint_id(self.global_step, self.attempt)
        self.saved_step, self.stands_at = self.step, checkpoint
        state = {
            "epoch": self.step / batches.steps_per_epoch,
            "global_step": self.global_step,
            "max_steps": self.global_step - self.step + batches.steps_total,
            "num_train_epochs": batches.epochs,
            "train_batch_size": batches.batch_size,
            "logging_steps": 1,
            "log_history": self.history,
        }
        return Snapshot(
            checkpoint=checkpoint,
            reason=reason,
            cursor=Cursor(
                job=prepared.job,
                global_step=self.global_step,
                step=self.step,
                steps_total=batches.steps_total,
                epoch=epoch,
            ),
            lineage=Lineage(
                attempt=self.attempt,
                parent=parent,
                data_sha256=prepared.job,
                batches_sha256=prepared.plan.batches_sha256,
                tokenizer_sha256=prepared.plan.tokenizer_sha256,
                base_sha256=self.trained.base_sha256,
                settings=prepared.settings,
            ),
            environment=self.environment,
            weights_file=self.trained.weights_file,
            weights=weights,
            optimizer=optimizer,
            files={
                **self.tokenizer_files,
                **self.trained.configs,
                STATE_FILE: json.dumps(state, indent=1).encode() + b"\n",
            },
        )
