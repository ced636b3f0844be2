"""The training loop.

Everything that a resume needs is in `Training`: the prepared job, the model, the optimizer, where they stand, and
what was logged. All else follows from the step's number.
"""

from __future__ import annotations

import gc
import json
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from events.course import Course
from events.messages import BatchSuspect, Evaluated, OutOfMemory, Step
from events.values import CheckpointId, CheckpointReason, Suspicion, checkpoint_id, number
from gpu.artifacts.checkpoint import STATE_FILE, Snapshot, copied, copied_buffers
from gpu.artifacts.manifest import Cursor, Lineage
from gpu.data.plan.batches import Batch, MicroBatch
from gpu.data.plan.prepare import PreparedJob
from gpu.errors import (
    EvaluationFailed,
    MicrobatchTooLarge,
    ModelUnusable,
    SuspectBatch,
    TrainingDiverged,
    YieldRequested,
    is_out_of_memory,
    nondeterministic_operation,
)
from gpu.ipc.worker_channel import Heartbeats, WorkerChannel
from gpu.model.build import TrainedModel
from gpu.runtime.determinism import seed_generators
from gpu.runtime.faults import run_out, strikes
from gpu.training.evaluate import evaluate, is_due, steps_since
from gpu.training.learning_rate import learning_rate
from gpu.training.loss import summed_loss
from gpu.training.loss_spike import threshold
from gpu.training.microbatch_split import cut, most_together
from gpu.training.saver import Saver
from journal.failpoints import failpoint


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
    course: Course
    """What is done otherwise than planned."""

    evaluates: bool = False
    evaluated_to: int = -1
    """The step of this job behind which it was evaluated last."""

    def run(self, channel: WorkerChannel, saver: Saver, heartbeats: Heartbeats) -> None:
        """Train to the end, or to the step boundary at which the daemon asks to yield.

        Every step that was reported is committed when this returns. Raises StorageFailed, TrainingDiverged, DoesNotFit,
        EvaluationFailed.
        """
        try:
            self._train(channel, saver, heartbeats)
        except (TrainingDiverged, MicrobatchTooLarge, EvaluationFailed):
            saver.finish()  # what was being written was copied before that, and is good
            raise

        # The end, or a pause: nothing that was reported stays uncommitted.
        saver.finish()
        if self.step > self.saved_step:
            reason: CheckpointReason = "end" if self.step == self.until else "yield"
            saver.begin(self._snapshot(reason, self.prepared.batches.step(self.step).epoch, saver.parent))
            saver.finish()

    def _train(self, channel: WorkerChannel, saver: Saver, heartbeats: Heartbeats) -> None:
        batches = self.prepared.batches
        while not channel.yield_requested():
            # Evaluate.
            if self._evaluation_is_due():
                self._evaluate(channel, heartbeats)
            if self.step == self.until or channel.yield_requested():
                break

            # Step.
            batch = batches.step(self.step + 1)
            report = self._pass_over(batch) if self.step + 1 in self.course.skipped else self._learn(batch, heartbeats)
            if isinstance(report, OutOfMemory):  # nothing has changed: the same step again, in smaller parts
                saver.finish()  # which gives its copies back, too; and the answer may be that this attempt has failed
                self.course = channel.ask_course(report)
                continue

            # Log.
            self._log(report)
            failpoint("step")
            channel.tell(report)

            # Save.
            if self.step < self.until and (reason := saver.due(self.step - self.saved_step)):
                saver.begin(self._snapshot(reason, batch.epoch, saver.parent))

        if self.step < self.until:
            failpoint("yield_seen")

    def _evaluation_is_due(self) -> bool:
        if not self.evaluates or self.prepared.validation is None or self.step <= self.evaluated_to:
            return False
        return is_due(self.step, self.prepared.batches.steps_total, self.prepared.settings.evaluation)

    def _evaluate(self, channel: WorkerChannel, heartbeats: Heartbeats) -> None:
        """The loss on rows that are not learned; nothing, if the daemon asks to yield meanwhile. Raises
        EvaluationFailed."""
        settings, rows = self.prepared.settings, self.prepared.validation
        assert rows is not None  # it is due
        with suppress(YieldRequested):
            found = evaluate(self.trained, rows, settings, self.global_step, channel, heartbeats)
            self.evaluated_to = self.step
            count = steps_since(self.step, settings.evaluation)
            losses = [entry["loss"] for entry in self.history[-count:] if not isinstance(entry["loss"], str)]
            channel.tell(
                Evaluated(
                    attempt=self.attempt,
                    global_step=self.global_step,
                    step=self.step,
                    training_loss=sum(losses) / len(losses) if losses else None,
                    **found._asdict(),
                )
            )

    def _learn(self, batch: Batch, heartbeats: Heartbeats) -> Step | OutOfMemory:
        """One optimizer step; or that there was too little memory for it, and all is as it was.

        Raises SuspectBatch before anything is changed, DoesNotFit where something may be.
        """
        began = time.perf_counter()
        settings, tokens = self.prepared.settings.training, self.prepared.tokens
        rate = learning_rate(self.step + 1, self.prepared.batches.steps_total, settings)
        self.stands_at = None
        shortage = ""
        try:
            loss, norm = self._gradients(batch, heartbeats)
        except Exception as error:
            if operation := nondeterministic_operation(error):
                raise _cannot_repeat(operation, self.trained.device.type) from error
            if not is_out_of_memory(error):
                raise
            shortage = _in_a_line(error)
        if shortage:  # behind the handler: the error holds what is to be given back
            return self._given_back(batch, shortage)
        self._refuse_if_suspect(batch, loss, norm)
        for group in self.optimizer.param_groups:
            group["lr"], group["weight_decay"] = rate, settings.weight_decay
        self._update(batch)
        return self._done(
            batch,
            loss=number(loss),
            grad_norm=number(norm),
            learning_rate=rate,
            tokens=sum(tokens.length(row) for row in batch.rows),
            seconds=time.perf_counter() - began,
        )

    def _pass_over(self, batch: Batch) -> Step:
        """A step whose batch was set aside: it has its number, and nothing else."""
        self.stands_at = None
        return self._done(batch, loss="NaN", grad_norm=0.0, learning_rate=0.0, tokens=0, seconds=0.0)

    def _done(self, batch: Batch, **report: Any) -> Step:
        self.step += 1
        self.global_step += 1
        return Step(attempt=self.attempt, global_step=self.global_step, step=self.step, epoch=batch.epoch, **report)

    def _gradients(self, batch: Batch, heartbeats: Heartbeats) -> tuple[float, float]:
        """Loss and gradient norm of a step, its clipped gradients left with the parameters.

        The loss is the mean over all trained tokens of the step, however they are split.
        """
        settings, tokens, global_step = self.prepared.settings.training, self.prepared.tokens, self.global_step + 1
        trained_tokens = sum(tokens.trained_in(row) for row in batch.rows)
        parameters = list(self.trained.parameters.values())
        parts = self.course.parts_at(self.step + 1)
        total = self.prepared.batches.steps_total * settings.gradient_accumulation
        loss = torch.zeros((), device=self.trained.device)
        for index, micro_batch in enumerate(batch.micro_batches):
            pieces = cut(micro_batch, parts)
            for place, piece in enumerate(pieces):
                seed_generators("step", settings.seed, global_step, index, *((place,) if len(pieces) > 1 else ()))
                micro_loss = self._micro_loss(piece) / trained_tokens
                micro_loss.backward()
                run_out("backward", global_step, len(piece))
                loss += micro_loss.detach()
                heartbeats.beat("step", self.step * settings.gradient_accumulation + index + 1, total)
        if strikes("nan_gradient", global_step):
            parameters[0].grad = torch.full_like(parameters[0], math.nan)
        if settings.max_grad_norm > 0:
            norm = torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        else:
            norm = torch.nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
        return float(loss), float(norm)

    def _update(self, batch: Batch) -> None:
        """The optimizer changes the weights. Raises DoesNotFit when it may have changed some of them only."""
        together = most_together(batch.micro_batches, self.course.parts_at(self.step + 1))
        try:
            self.optimizer.step()
            run_out("update", self.global_step + 1, together)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise MicrobatchTooLarge(self.global_step + 1, self.step + 1, together, _in_a_line(error)) from error
        self.optimizer.zero_grad()

    def _given_back(self, batch: Batch, shortage: str) -> OutOfMemory:
        """Without the gradients that there are: nothing of the step is left, and as much memory is free as can be."""
        self.optimizer.zero_grad()
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        return OutOfMemory(
            attempt=self.attempt,
            global_step=self.global_step + 1,
            step=self.step + 1,
            sequences=most_together(batch.micro_batches, self.course.parts_at(self.step + 1)),
            during="gradients",
            message=shortage,
        )

    def _refuse_if_suspect(self, batch: Batch, loss: float, norm: float) -> None:
        """Raises SuspectBatch: the optimizer would write it into every weight."""
        guard = self.prepared.settings.guard
        seen = [entry["loss"] for entry in self.history if not isinstance(entry["loss"], str)]
        limit = threshold(seen, guard.spike, guard.spike_window)
        suspicion: Suspicion
        if not (math.isfinite(loss) and math.isfinite(norm)):
            suspicion, message = "not_finite", f"loss {number(loss)}, gradient norm {number(norm)}"
        elif limit is not None and loss > limit:
            suspicion, message = "spike", f"loss {loss:.4f} is above {limit:.4f}, far above those before it"
        else:
            return
        self.optimizer.zero_grad()
        lines, earlier = self.prepared.lines_of(batch.rows)
        raise SuspectBatch(
            BatchSuspect(
                attempt=self.attempt,
                global_step=self.global_step + 1,
                step=self.step + 1,
                loss=number(loss),
                grad_norm=number(norm),
                suspicion=suspicion,
                message=message,
                lines=lines,
                earlier=earlier,
            )
        )

    def _micro_loss(self, micro_batch: MicroBatch) -> torch.Tensor:
        """The sum of the cross-entropies of the trained tokens of a micro-batch."""
        run_out("forward", self.global_step + 1, len(micro_batch))
        loss = summed_loss(self.trained, self.prepared.tokens, micro_batch, self.prepared.settings)
        if strikes("nan", self.global_step + 1):
            loss = loss * math.nan
        return loss * 100 if strikes("spike", self.global_step + 1) else loss

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
            buffers=copied_buffers(self.trained),
            files={
                **self.tokenizer_files,
                **self.trained.configs,
                STATE_FILE: json.dumps(state, indent=1).encode() + b"\n",
            },
        )


def _cannot_repeat(operation: str, device: str) -> ModelUnusable:
    return ModelUnusable(
        f"this model uses {operation}, for which torch has no deterministic implementation on {device}: a step that is "
        "run again would have other bits. Name another model in [model] path, or train on the CPU: "
        "`CUDA_VISIBLE_DEVICES= keepstep run`."
    )


def _in_a_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
