"""Benchmark training against TRL's SFTTrainer: `make bench-training`, or `python -m benchmarks.bench_trl --help`.

The sides train LoRA r=16 on all linear layers over the same rows, on a model with random weights in the shape of
SmolLM2-135M (vocabulary 49,152): keepstep, keepstep with `kernels = "plain"`, TRL as it is, and TRL at its best
settings on a CPU (no gradient checkpointing, rows of similar length together). Each runs in a separate process, in
turns, because a machine's speed drifts; the figures are medians, the ratios medians of the ratios of each round. Tokens
are those of the rows, without padding. The first step, which warms up, does not count.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

SIDES = ("keepstep", "keepstep, plain kernels", "TRL, default", "TRL, best")
SHAPE = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
VOCABULARY = 49_152
BATCH = 8
ROWS = 96
WORDS = (20, 50)
"""Words in a prompt and its completion: with the tokenizer of the tests, rows have the lengths of GSM8K's."""

Row = tuple[str, float, str, float]


def write_home(home: Path, layers: int) -> tuple[Path, list[dict[str, str]]]:
    """Write the model and the rows. Returns the model's directory and the rows."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.harness.tiny_model import make_tokenizer

    tokenizer = make_tokenizer()
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        num_hidden_layers=layers,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
        **SHAPE,
        **special,
    )
    torch.manual_seed(1)
    LlamaForCausalLM(config).save_pretrained(home / "model")
    tokenizer.save_pretrained(home / "model")
    draw = random.Random(1)
    words = (
        "the",
        "of",
        "and",
        "to",
        "in",
        "is",
        "that",
        "it",
        "was",
        "for",
        "on",
        "are",
        "as",
        "with",
        "they",
        "this",
    )
    rows = [
        {
            "prompt": " ".join(draw.choices(words, k=draw.randint(*WORDS))),
            "completion": " ".join(draw.choices(words, k=draw.randint(*WORDS))),
        }
        for _ in range(ROWS)
    ]
    return home / "model", rows


def train_with_keepstep(home: Path, rows: list[dict[str, str]], steps: int, kernels: Any) -> tuple[int, float]:
    """Train in this process with the worker's own loop. Returns tokens and seconds without the first step."""
    from gpu.worker import ENVIRONMENT

    os.environ.update(ENVIRONMENT)  # before torch is loaded
    from benchmarks.bench_training import WorkerChannel, daemon_end
    from events import messages
    from events.settings import CheckpointSettings, JobSettings, LoraSettings, ModelSettings, TrainingSettings
    from gpu.session import Session

    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    job = hashlib.sha256(data).hexdigest()
    (home / "data").mkdir()
    (home / "data" / f"{job}.jsonl").write_bytes(data)
    settings = JobSettings(
        model=ModelSettings(path="model"),
        method=LoraSettings(r=16),
        training=TrainingSettings(batch_size=BATCH, gradient_accumulation=1, kernels=kernels),
        checkpoints=CheckpointSettings(every_steps=10_000),
    )
    ours, theirs = socket.socketpair()
    threading.Thread(target=daemon_end, args=(theirs, str(home)), daemon=True).start()
    channel = WorkerChannel(ours)
    taken: list[messages.Step] = []
    channel.after_step = taken.append
    session = Session(home, channel, scratch=home / "scratch")  # no rehearsal of a consolidation
    session.prepare(messages.Prepare(attempt=1, job=job, settings=settings))
    session.train(messages.Train(attempt=1, global_step=0, step=0, until=steps, checkpoint=None, carry_optimizer=True))
    return sum(step.tokens for step in taken[1:]), sum(step.seconds for step in taken[1:])


def train_with_trl(home: Path, rows: list[dict[str, str]], steps: int, *, best: bool) -> tuple[int, float]:
    """Train in this process with SFTTrainer. Returns tokens and seconds without the first step."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    options: dict[str, Any] = (
        {"gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"} if best else {}
    )
    began: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]  # transformers is Any here
        def on_step_end(self, *_: Any, **__: Any) -> None:
            began.append(time.perf_counter())

    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(home / "model", dtype=torch.float32),
        args=SFTConfig(
            output_dir=str(home / "trl"),
            per_device_train_batch_size=BATCH,
            max_steps=steps,
            bf16=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            seed=1,
            **options,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(home / "model"),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear"),
        callbacks=[Clock()],
    )
    seen: list[int] = []
    collator = trainer.data_collator

    def counted(examples: list[dict[str, Any]]) -> Any:
        seen.append(sum(len(example["input_ids"]) for example in examples))
        return collator(examples)

    trainer.data_collator = counted
    trainer.train()
    return sum(seen[1:steps]), began[-1] - began[0]


def measure(side: str, layers: int, steps: int) -> dict[str, float]:
    """Train on one side in this process."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as directory:
        home = Path(directory)
        _, rows = write_home(home, layers)
        if side.startswith("keepstep"):
            tokens, seconds = train_with_keepstep(home, rows, steps, "plain" if "plain" in side else "auto")
        else:
            tokens, seconds = train_with_trl(home, rows, steps, best="best" in side)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"tokens": tokens, "tokens/s": tokens / seconds, "peak MB": peak_mb}


def main() -> list[Row]:
    """Run all sides in turns, print the table, and return its rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_trl", description=__doc__)
    parser.add_argument("--layers", type=int, default=30, help="layers of the model; SmolLM2-135M has 30")
    parser.add_argument("--steps", type=int, default=5, help="steps of each run, the first to warm up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help="measure only this one, in this process; prints JSON")
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.layers, options.steps)))
        return []
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(options.rounds):
        for side in SIDES:
            command = [sys.executable, "-m", "benchmarks.bench_trl", "--side", side]
            command += ["--layers", str(options.layers), "--steps", str(options.steps)]
            ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            found[side].append(json.loads(ended.stdout.splitlines()[-1]))
    table = []
    for side in SIDES:
        speed = statistics.median(each["tokens/s"] for each in found[side])
        pairs = zip(found[side], found["TRL, default"], strict=True)
        ratio = statistics.median(ours["tokens/s"] / theirs["tokens/s"] for ours, theirs in pairs)
        memory = statistics.median(each["peak MB"] for each in found[side])
        table.append((f"train: {side}", speed, "tokens/s", ratio))
        print(f"{side:<26} {speed:>8,.0f} tokens/s {ratio:>6.2f} x TRL, default {memory:>8,.0f} MB at most")
    return table


if __name__ == "__main__":
    main()
