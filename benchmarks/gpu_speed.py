"""Benchmark keepstep on a model of a known shape, next to a bare PyTorch loop in the same process.

The weights are random and the tokenizer has one token a byte: nothing is downloaded, and neither changes the speed.
Both sides train the same rows in the same batches with the same model, adapter, AdamW and precision. The bare loop
(`bench_training.py`) is what one would write by hand: no determinism, no seeding, no checkpoints. keepstep's side is
the worker's own loop with checkpoints as the settings ask.
"""

from __future__ import annotations

import gc
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from benchmarks.bench_training import bare_loop
from events.messages import AnyFact, CheckpointWritten, Prepare, Step, Train
from events.settings import CheckpointSettings, DataSettings, JobSettings, ModelSettings, TrainingSettings
from tests.gpu.helpers import FULL, FakeChannel
from tests.harness.tiny_model import make_tokenizer


class Shape(NamedTuple):
    """A published model's configuration, without its weights."""

    name: str
    model_type: str
    config: dict[str, Any]


SHAPES = {
    # https://huggingface.co/Qwen/Qwen3-0.6B/blob/main/config.json
    "qwen3": Shape(
        "Qwen3-0.6B",
        "qwen3",
        {
            "vocab_size": 151_936,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 40_960,
            "tie_word_embeddings": True,
        },
    ),
    # https://huggingface.co/meta-llama/Llama-3.2-1B/blob/main/config.json
    "llama": Shape(
        "Llama-3.2-1B",
        "llama",
        {
            "vocab_size": 128_256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "max_position_embeddings": 131_072,
            "tie_word_embeddings": True,
        },
    ),
}

TINY = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
"""The overrides of a shape for `--tiny`."""

BATCH, ACCUMULATION = 8, 2
WARM_UP, STEPS, STEPS_FULL = 4, 20, 12
"""Number of steps, and of those that are not measured: they choose kernels and allocate memory. Training all weights
uses fewer steps: its checkpoint of 7 GB takes the time."""

CHARACTERS = 1000
"""Length of an answer, which gives a common context length."""


def described(device: str, shape: str, *, tiny: bool) -> str:
    """Return a description of the measurement."""
    size = "tiny, " if tiny else ""
    return f"{size}batches of {BATCH} × {ACCUMULATION} rows of about {_characters(tiny)} tokens, {device}, {shape}"


def compare(directory: Path, shape: str, method: Any, device: str, *, tiny: bool) -> list[dict[str, Any]]:
    """Train with both. Return tokens/s and peak memory of each."""
    _make_model(directory / "model", SHAPES[shape], device, tiny=tiny)
    steps = (STEPS_FULL if method is FULL else STEPS) if not tiny else 6
    warm_up = WARM_UP if not tiny else 2
    job, settings = _make_data(directory, method, steps, tiny=tiny)
    with _peak_of(device) as bare_peak:
        bare = _bare_speed(directory, job, settings, device, warm_up, steps)
    _release()
    with _peak_of(device) as ours_peak:
        ours = _our_speed(directory, job, settings, warm_up, steps)
    rows = (("keepstep", ours, ours_peak), ("bare PyTorch loop", bare, bare_peak))
    return [
        {"loop": loop, "tokens_per_s": speed, "share": speed / bare, "peak_bytes": max(peak)}
        for loop, speed, peak in rows
    ]


def _make_model(directory: Path, shape: Shape, device: str, *, tiny: bool) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(shape.model_type, **{**shape.config, **(TINY if tiny else {})})
    torch.manual_seed(7)
    with torch.device(device):  # billions of random numbers take seconds on a GPU, minutes on a CPU
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    del model
    _release()


def _make_data(home: Path, method: Any, steps: int, *, tiny: bool) -> tuple[str, JobSettings]:
    """Return different rows of about equal length, and their settings."""
    words = "one two three four five six seven eight nine ten "
    lines = []
    for number in range(steps * BATCH * ACCUMULATION):
        start = number * 7 % len(words)
        answer = (words * (_characters(tiny) // len(words) + 2))[start : start + _characters(tiny)]
        lines.append(json.dumps({"prompt": f"{number}?", "completion": answer}) + "\n")
    data = "".join(lines).encode()
    job = hashlib.sha256(data).hexdigest()
    (home / "data").mkdir()
    (home / "data" / f"{job}.jsonl").write_bytes(data)
    precision: Any = "bf16"
    return job, JobSettings(
        model=ModelSettings(path="model", dtype="bfloat16"),
        method=method,
        data=DataSettings(max_length=2048),
        training=TrainingSettings(
            batch_size=BATCH, gradient_accumulation=ACCUMULATION, precision=precision, learning_rate=1e-5
        ),
        checkpoints=CheckpointSettings(every_steps=0 if method is FULL else steps // 2, every_seconds=0.0),
    )


def _characters(tiny: bool) -> int:
    return 60 if tiny else CHARACTERS


def _bare_speed(home: Path, job: str, settings: JobSettings, device: str, warm_up: int, steps: int) -> float:
    """Return the tokens/s of a plain training loop."""
    train = bare_loop(home, job, settings, device)
    train(range(1, warm_up + 1))
    _synchronize(device)
    began = time.perf_counter()
    tokens = train(range(warm_up + 1, steps + 1))
    _synchronize(device)
    return tokens / (time.perf_counter() - began)


class _Timed(FakeChannel):
    """Records the time of each reported step and checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.at: list[float] = []

    def send(self, fact: AnyFact) -> None:
        """Record a fact."""
        super().send(fact)
        if isinstance(fact, Step):
            self.at.append(time.perf_counter())


def _our_speed(home: Path, job: str, settings: JobSettings, warm_up: int, steps: int) -> float:
    """Return the tokens/s of the worker's loop, from the end of the warm-up to the end of the last step."""
    from gpu.session import Session

    channel = _Timed()
    warm = Session(home, channel)
    warm.prepare(Prepare(attempt=1, job=job, settings=settings))
    warm.train(Train(attempt=1, global_step=0, step=0, until=steps, checkpoint=None, carry_optimizer=True))
    assert channel.of(CheckpointWritten)
    tokens = sum(step.tokens for step in channel.of(Step)[warm_up:])
    return tokens / (channel.at[-1] - channel.at[warm_up - 1])


@contextmanager
def _peak_of(device: str) -> Iterator[list[int]]:
    """Measure the peak memory of the block, bytes: on a GPU as torch counts it, on a CPU by samples."""
    peak = [0]
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        yield peak
        peak.append(torch.cuda.max_memory_allocated())
        return
    process, ended = psutil.Process(), threading.Event()

    def sample() -> None:
        while not ended.wait(0.02):
            peak.append(process.memory_info().rss)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield peak
    finally:
        ended.set()
        sampler.join()
        peak.append(process.memory_info().rss)


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _release() -> None:
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
