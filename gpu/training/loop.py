"""The training loop: evaluate, sample, answer, step, log, save.

`Training` holds everything that a resume needs: the prepared job, model and optimizer, the position, and the log. All
else (batch, learning rate, random numbers) follows from the number of the step.
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
from gpu.artifacts.checkpoint import STATE_FILE, Snapshot, copy_buffers, copy_state
from gpu.artifacts.manifest import Cursor, Lineage
from gpu.data.plan.batches import Batch, MicroBatch
from gpu.data.plan.prepare import PreparedJob
from gpu.errors import (
    CorrectionFailed,
    EvaluationFailed,
    MicrobatchTooLarge,
    ModelUnusable,
    SamplingFailed,
    SuspectBatch,
    TrainingDiverged,
    YieldRequested,
    is_out_of_memory,
    nondeterministic_operation,
)
from gpu.evaluation.job_end import JobEnd
from gpu.ipc.worker_channel import Heartbeats, WorkerChannel
from gpu.model.build import TrainedModel
from gpu.runtime.determinism import seed_generators
from gpu.runtime.faults import inject_out_of_memory, is_injected
from gpu.training.evaluate import evaluate, is_due, steps_since
from gpu.training.learning_rate import learning_rate
from gpu.training.loss import summed_loss
from gpu.training.loss_spike import spike_threshold
from gpu.training.microbatch_split import largest_part, split_microbatch
from gpu.training.rounds.corrector import Corrector
from gpu.training.rounds.sampler import Sampler
from gpu.training.saver import Saver
from journal.failpoints import failpoint


@dataclass
class Training:
    """One attempt at a job."""

    attempt: int
    prepared: PreparedJob
    trained: TrainedModel
    optimizer: torch.optim.AdamW
    tokenizer_files: Mapping[str, bytes]
    environment: dict[str, str]
    global_step: int
    step: int
    until: int
    """The last step of this job that this attempt trains."""
    saved_step: int
    """The step of this job that the newest checkpoint holds, in flight or committed."""
    at_checkpoint: CheckpointId | None
    """The checkpoint that is equal to the state in memory; None between checkpoints."""
    history: list[dict[str, Any]]
    """The log of this job: loss, gradient norm and learning rate of each step."""
    course: Course
    """The steps that deviate from the plan: split micro-batches and skipped batches."""

    evaluates: bool = False
    evaluated_to: int = -1
    """The step of this job after which it was last evaluated; -1: never."""
    sampler: Sampler | None = None
    """None: no samples are taken."""
    corrector: Corrector | None = None
    """None: no self-correction."""
    job_end: JobEnd | None = None
    """None: the end of the job is not evaluated."""

    def run(self, channel: WorkerChannel, saver: Saver, heartbeats: Heartbeats) -> None:
        """Train to the end, or to the step boundary at which the daemon asks to yield.

        Every reported step is committed when this returns. Raises StorageFailed, TrainingDiverged, MicrobatchTooLarge,
        EvaluationFailed, SamplingFailed, CorrectionFailed.
        """
        try:
            self._train(channel, saver, heartbeats)
        except (TrainingDiverged, MicrobatchTooLarge, EvaluationFailed, SamplingFailed, CorrectionFailed):
            saver.finish()  # the checkpoint in flight was copied before the failure
            raise

        # Save the last step.
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

            # Sample.
            if self.sampler is not None:
                self.sampler.visit(self.step, self.global_step)

            # Answer for self-correction.
            if self.corrector is not None:
                self.corrector.visit(self.step, self.global_step)
            if self.step == self.until and self.job_end is not None:
                self.job_end.evaluate(self.step, self.global_step)
            if self.step == self.until or channel.yield_requested():
                break

            # Step.
            batch = batches.step(self.step + 1)
            is_skipped = self.step + 1 in self.course.skipped
            report = self._skip_batch(batch) if is_skipped else self._train_step(batch, heartbeats)
            if isinstance(report, OutOfMemory):  # the weights are unchanged: run the step again in smaller parts
                saver.finish()  # frees its copies too; and the daemon may end this attempt
                self.course = channel.request_course(report)
                continue

            # Log.
            self._log(report)
            failpoint("step")
            channel.send(report)
            for rounds in (self.sampler, self.corrector, self.job_end):
                if rounds is not None:
                    rounds.add_training(report.seconds)

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
        """Report the loss on the held-out rows; report nothing if the daemon asks to yield.

        Raises EvaluationFailed.
        """
        settings, rows = self.prepared.settings, self.prepared.validation
        assert rows is not None  # else no evaluation is due
        with suppress(YieldRequested):
            result = evaluate(self.trained, rows, settings, self.global_step, channel, heartbeats)
            self.evaluated_to = self.step
            count = steps_since(self.step, settings.evaluation)
            losses = [entry["loss"] for entry in self.history[-count:] if not isinstance(entry["loss"], str)]
            channel.send(
                Evaluated(
                    attempt=self.attempt,
                    global_step=self.global_step,
                    step=self.step,
                    training_loss=sum(losses) / len(losses) if losses else None,
                    **result._asdict(),
                )
            )

    def _train_step(self, batch: Batch, heartbeats: Heartbeats) -> Step | OutOfMemory:
        """Run one optimizer step. Return OutOfMemory if memory ran out before a weight changed.

        Raises SuspectBatch before a weight changes; MicrobatchTooLarge if some weights may have changed.
        """
        began = time.perf_counter()
        settings, tokens = self.prepared.settings.training, self.prepared.tokens
        rate = learning_rate(self.step + 1, self.prepared.batches.steps_total, settings)
        self.at_checkpoint = None
        out_of_memory = ""
        try:
            loss, norm = self._gradients(batch, heartbeats)
        except Exception as error:
            if operation := nondeterministic_operation(error):
                raise _not_deterministic(operation, self.trained.device.type) from error
            if not is_out_of_memory(error):
                raise
            out_of_memory = _one_line(error)
        if out_of_memory:  # after the handler: the error keeps the tensors alive that are to be freed
            return self._undo_gradients(batch, out_of_memory)
        self._refuse_if_suspect(batch, loss, norm)
        for group in self.optimizer.param_groups:
            group["lr"], group["weight_decay"] = rate, settings.weight_decay
            group["betas"], group["eps"] = settings.betas, settings.eps
        self._update(batch)
        return self._advance(
            batch,
            loss=number(loss),
            grad_norm=number(norm),
            learning_rate=rate,
            tokens=sum(tokens.length(row) for row in batch.rows),
            seconds=time.perf_counter() - began,
        )

    def _skip_batch(self, batch: Batch) -> Step:
        """Count a step whose batch is skipped. Nothing is trained."""
        self.at_checkpoint = None
        return self._advance(batch, loss="NaN", grad_norm=0.0, learning_rate=0.0, tokens=0, seconds=0.0)

    def _advance(self, batch: Batch, **report: Any) -> Step:
        self.step += 1
        self.global_step += 1
        return Step(attempt=self.attempt, global_step=self.global_step, step=self.step, epoch=batch.epoch, **report)

    def _gradients(self, batch: Batch, heartbeats: Heartbeats) -> tuple[float, float]:
        """Compute the gradients of a step and clip them. Return its loss (nats per token) and its gradient norm.

        The loss is the mean over all trained tokens of the step, however they are split.
        """
        settings, tokens, global_step = self.prepared.settings.training, self.prepared.tokens, self.global_step + 1
        trained_tokens = sum(tokens.trained_in(row) for row in batch.rows)
        parameters = list(self.trained.parameters.values())
        parts = self.course.parts_at(self.step + 1)
        total = self.prepared.batches.steps_total * settings.gradient_accumulation
        loss = torch.zeros((), device=self.trained.device)
        for index, micro_batch in enumerate(batch.micro_batches):
            pieces = split_microbatch(micro_batch, parts)
            for number_of_piece, piece in enumerate(pieces):
                which = (index, number_of_piece) if len(pieces) > 1 else (index,)
                seed_generators("step", settings.seed, global_step, *which)
                micro_loss = self._summed_loss(piece) / trained_tokens
                micro_loss.backward()
                inject_out_of_memory("backward", global_step, len(piece))
                loss += micro_loss.detach()
                heartbeats.beat("step", self.step * settings.gradient_accumulation + index + 1, total)
        if is_injected("nan_gradient", global_step):
            parameters[0].grad = torch.full_like(parameters[0], math.nan)
        if settings.max_grad_norm > 0:
            norm = torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        else:
            norm = torch.nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
        return float(loss), float(norm)

    def _update(self, batch: Batch) -> None:
        """Let the optimizer change the weights. Raises MicrobatchTooLarge if it may have changed only some of them."""
        sequences = largest_part(batch.micro_batches, self.course.parts_at(self.step + 1))
        try:
            self.optimizer.step()
            inject_out_of_memory("update", self.global_step + 1, sequences)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise MicrobatchTooLarge(self.global_step + 1, self.step + 1, sequences, _one_line(error)) from error
        self.optimizer.zero_grad()

    def _undo_gradients(self, batch: Batch, message: str) -> OutOfMemory:
        """Drop the gradients and free as much memory as possible. Return the report of the step."""
        self.optimizer.zero_grad()
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        return OutOfMemory(
            attempt=self.attempt,
            global_step=self.global_step + 1,
            step=self.step + 1,
            sequences=largest_part(batch.micro_batches, self.course.parts_at(self.step + 1)),
            during="gradients",
            message=message,
        )

    def _refuse_if_suspect(self, batch: Batch, loss: float, norm: float) -> None:
        """Raise SuspectBatch if loss or norm are not finite, or the loss is a spike: it would spoil every weight."""
        guard = self.prepared.settings.guard
        losses = [entry["loss"] for entry in self.history if not isinstance(entry["loss"], str)]
        limit = spike_threshold(losses, guard.spike, guard.spike_window)
        suspicion: Suspicion
        if not (math.isfinite(loss) and math.isfinite(norm)):
            suspicion, message = "not_finite", f"loss {number(loss)}, gradient norm {number(norm)}"
        elif limit is not None and loss > limit:
            suspicion, message = (
                "spike",
                f"loss {loss:.4f} is above {limit:.4f}, the limit that follows from the losses before it",
            )
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

    def _summed_loss(self, micro_batch: MicroBatch) -> torch.Tensor:
        """Return the loss of a micro-batch, summed over its trained tokens, with the faults that a test injects."""
        inject_out_of_memory("forward", self.global_step + 1, len(micro_batch))
        loss = summed_loss(self.trained, self.prepared.tokens, micro_batch, self.prepared.settings)
        if is_injected("nan", self.global_step + 1):
            loss = loss * math.nan
        return loss * 100 if is_injected("spike", self.global_step + 1) else loss

    def _log(self, step: Step) -> None:
        entry = {"loss": step.loss, "grad_norm": step.grad_norm, "learning_rate": step.learning_rate}
        epoch = step.step / self.prepared.batches.steps_per_epoch
        self.history.append({"epoch": epoch, "step": step.global_step, **entry})

    def _snapshot(self, reason: CheckpointReason, epoch: int, parent: CheckpointId | None) -> Snapshot:
        """Copy everything that the next step would change."""
        prepared, batches = self.prepared, self.prepared.batches
        weights, optimizer = copy_state(self.trained, self.optimizer)
        checkpoint = checkpoint_id(self.global_step, self.attempt)
        self.saved_step, self.at_checkpoint = self.step, checkpoint
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
            buffers=copy_buffers(self.trained),
            files={
                **self.tokenizer_files,
                **self.trained.configs,
                STATE_FILE: json.dumps(state, indent=1).encode() + b"\n",
            },
        )


def _not_deterministic(operation: str, device: str) -> ModelUnusable:
    return ModelUnusable(
        f"this model uses {operation}, for which torch has no deterministic implementation on {device}. A step that "
        "runs again would have other bits. Set another model in [model] path, or train on the CPU: "
        "`CUDA_VISIBLE_DEVICES= keepstep run`."
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
