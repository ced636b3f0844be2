"""Benchmark training, with journal and asynchronous checkpoints, against a bare PyTorch loop.

    python benchmarks/bench_training.py

Both train LoRA on the same model (made on the fly, some million parameters) over the same batches. keepstep's side is
the worker's own loop, with another process at the other end of its socket that journals every step and every
checkpoint with fdatasync, as the daemon does. The bare side is what one would write by hand: model, loss, backward,
clip, AdamW, and nothing else: no determinism, no seeding, no checkpoints. They take turns every few steps within one
run, because a shared machine's speed drifts by more than the difference; what is compared is the median over turns of
the ratios. Each of keepstep's turns has one checkpoint in it, far more than a real run writes.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from events import codec, kinds, messages
from events.settings import CheckpointSettings, JobSettings, LoraSettings, ModelSettings, TrainingSettings
from gpu.ipc import connection as link
from journal import Journal
from tests.harness.tiny_model import make_tiny_model

AT = "2026-11-22T03:00:00.123456Z"
TURNS = 13
STEPS_PER_TURN = 6
"""Steps between two checkpoints. The turn passes half-way between two checkpoints, when the write is over, so that it
does not count for the other side."""

ROWS = 96
THREADS = 1
"""One thread: with more, other processes delay every barrier, and the noise exceeds the difference."""

Row = tuple[str, float, str, float]
"""Name, figure, unit, and ratio to the fastest known way."""


def daemon_end(connection: socket.socket, directory: str) -> None:
    """Journal the facts of the worker, and acknowledge checkpoints once they are journaled."""
    Journal.create(Path(directory) / "journal", at=AT, first=[codec.encode(kinds.PauseRequested())])
    journal = Journal.open(Path(directory) / "journal", decode=codec.decode_record)
    reader, sender = link.fact_reader(), link.Sender(connection)
    while data := connection.recv(65536):
        for fact in reader.feed(data):
            if not isinstance(fact, messages.Step | messages.CheckpointWritten):
                continue
            fields = {name: getattr(fact, name) for name in fact.__struct_fields__}
            kind = kinds.StepReached if isinstance(fact, messages.Step) else kinds.CheckpointCommitted
            with journal.transaction() as transaction:
                transaction.append([codec.encode(kind(job="3b" * 32, **fields))], at=AT)
            if isinstance(fact, messages.CheckpointWritten):
                sender.send(messages.Committed(attempt=fact.attempt, checkpoint=fact.checkpoint))


class WorkerChannel:
    """The worker's end of the socket, which does not end the process.

    `after_step` is called with each reported step, and the training loop waits for it.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.after_step: Callable[[messages.Step], None] = lambda _: None
        self._connection = connection
        self._sender = link.Sender(connection)
        self._committed: str | None = None
        self._commit = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, fact: messages.AnyFact) -> None:
        self._sender.send(fact)
        if isinstance(fact, messages.Step):
            self.after_step(fact)

    def take_correction_order(self) -> None:
        """No self-correction."""

    def take_sample_order(self) -> None:
        """Nobody asks for samples."""

    def yield_requested(self) -> bool:
        return False

    def request_course(self, fact: messages.OutOfMemory) -> NoReturn:
        raise MemoryError(fact.message)

    def is_committed(self, checkpoint: str) -> bool:
        return self._committed == checkpoint

    def wait_committed(self, checkpoint: str) -> None:
        with self._commit:
            self._commit.wait_for(lambda: self.is_committed(checkpoint))

    def _read(self) -> None:
        reader = link.order_reader()
        while data := self._connection.recv(65536):
            for order in reader.feed(data):
                if isinstance(order, messages.Committed):
                    with self._commit:
                        self._committed = order.checkpoint
                        self._commit.notify_all()


def make_home(home: Path) -> tuple[str, JobSettings]:
    """Write a model and a data file. Return the job and its settings."""
    make_tiny_model(
        home / "model",
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    texts = (f"{number}: " + "All that is said is said by someone. " * (2 + number % 3) for number in range(ROWS))
    data = "".join(json.dumps({"prompt": "Continue.", "completion": text}) + "\n" for text in texts).encode()
    job = hashlib.sha256(data).hexdigest()
    (home / "data").mkdir()
    (home / "data" / f"{job}.jsonl").write_bytes(data)
    return job, JobSettings(
        model=ModelSettings(path="model"),
        method=LoraSettings(r=16),
        training=TrainingSettings(batch_size=2, gradient_accumulation=2, epochs=100, threads=THREADS),
        checkpoints=CheckpointSettings(every_steps=STEPS_PER_TURN),
    )


def bare_loop(home: Path, job: str, settings: JobSettings, device: str = "cpu") -> Callable[[range], int]:
    """A plain training loop over the same batches. It trains the given steps and returns the number of their tokens."""
    import numpy as np
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from gpu.data.encode.encoder import Encoder
    from gpu.data.format.rows import read_rows
    from gpu.data.plan.batches import Batches
    from gpu.data.template.fingerprint import tokenizer_sha256
    from gpu.model.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(settings.model, home)
    encoder = Encoder(tokenizer, settings.data)
    read = list(read_rows(home / "data" / f"{job}.jsonl", settings.data))  # all rows are good
    rows = [piece for encoding in encoder.encode_many(read) for piece in encoding.pieces]
    lengths = np.array([len(row.ids) for row in rows], np.int32)
    batches = Batches.planned(job, tokenizer_sha256(tokenizer), "", lengths, settings)
    method, training = settings.method, settings.training
    held_in = settings.model.dtype if isinstance(method, LoraSettings) else "float32"
    model = AutoModelForCausalLM.from_pretrained(home / "model", dtype=getattr(torch, held_in))
    if isinstance(method, LoraSettings):
        lora = LoraConfig(task_type="CAUSAL_LM", r=method.r, lora_alpha=method.alpha, target_modules="all-linear")
        model = get_peft_model(model, lora)
    model.to(device)
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=0.0)

    def collate(numbers: tuple[tuple[int, ...], ...]) -> dict[str, Any]:
        chosen = [rows[number] for (number,) in numbers]
        width = max(len(row.ids) for row in chosen)
        ids = [row.ids + [0] * (width - len(row.ids)) for row in chosen]
        mask = [[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in chosen]
        labels = [
            [token if trained else -100 for token, trained in zip(row.ids, row.trained, strict=True)]
            + [-100] * (width - len(row.ids))
            for row in chosen
        ]
        return {
            "input_ids": torch.tensor(ids).to(device),
            "attention_mask": torch.tensor(mask).to(device),
            "labels": torch.tensor(labels).to(device),
        }

    def train(steps: range) -> int:
        torch.use_deterministic_algorithms(False)
        tokens = 0
        for step in steps:
            micro_batches = batches.step(step).micro_batches
            tokens += sum(len(rows[number].ids) for numbers in micro_batches for (number,) in numbers)
            items = sum(sum(rows[number].trained[1:]) for numbers in micro_batches for (number,) in numbers)
            loss = 0.0
            for numbers in micro_batches:
                with torch.autocast(device, torch.bfloat16, enabled=training.precision == "bf16"):
                    micro_loss = model(**collate(numbers), num_items_in_batch=items, use_cache=False).loss
                micro_loss.backward()
                loss += micro_loss.item()
            torch.nn.utils.clip_grad_norm_(parameters, training.max_grad_norm).item()
            optimizer.step()
            optimizer.zero_grad()

        torch.use_deterministic_algorithms(True)
        return tokens

    return train


def take_turns(channel: WorkerChannel, bare: Callable[[range], int]) -> dict[str, list[float]]:
    """Let the bare loop train each range of steps that keepstep has just trained. Yield the tokens/s of both."""
    speeds: dict[str, list[float]] = {"keepstep": [], "bare PyTorch loop": []}
    began, tokens = 0.0, 0

    def after_step(step: messages.Step) -> None:
        nonlocal began, tokens
        tokens += step.tokens
        if step.step % STEPS_PER_TURN != STEPS_PER_TURN // 2:
            return
        passed = time.perf_counter()
        bare(range(max(1, step.step - STEPS_PER_TURN + 1), step.step + 1))
        ended = time.perf_counter()
        if step.step > 2 * STEPS_PER_TURN:  # the first turns warm up
            speeds["keepstep"].append(tokens / (passed - began))
            speeds["bare PyTorch loop"].append(tokens / (ended - passed))
        began, tokens = time.perf_counter(), 0

    channel.after_step = after_step
    return speeds


def main() -> list[Row]:
    """Run, print the table, and return its rows."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as directory:
        ours, theirs = socket.socketpair()
        # Fork before torch is imported: its threads do not survive a fork.
        daemon = multiprocessing.get_context("fork").Process(target=daemon_end, args=(theirs, directory), daemon=True)
        daemon.start()
        theirs.close()
        from gpu.worker import ENVIRONMENT

        os.environ.update(ENVIRONMENT)
        import torch

        torch.set_num_threads(THREADS)
        home = Path(directory)
        job, settings = make_home(home)
        from gpu.session import Session

        channel = WorkerChannel(ours)
        speeds = take_turns(channel, bare_loop(home, job, settings))
        warm = Session(home, channel)
        warm.prepare(messages.Prepare(attempt=1, job=job, settings=settings))
        steps = (TURNS + 2) * STEPS_PER_TURN
        warm.train(messages.Train(attempt=1, global_step=0, step=0, until=steps, checkpoint=None, carry_optimizer=True))
        ours.shutdown(socket.SHUT_RDWR)
        daemon.join()
    rows = [
        (
            f"train: {name}",
            statistics.median(speeds[name]),
            "tokens/s",
            statistics.median(a / b for a, b in zip(speeds[name], speeds["bare PyTorch loop"], strict=True)),
        )
        for name in speeds
    ]
    for name, count, unit, share in rows:
        print(f"{name:<36} {count:>12,.0f} {unit:<10} {share:>5.2f}")
    return rows


if __name__ == "__main__":
    main()
