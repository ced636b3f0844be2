"""Benchmark encoding rows against `datasets.map`, with the same tokenizer and processes; and the padding of batches.

    python -m benchmarks.bench_data [ROWS]

The rows are those of GSM8K's test file (`BENCH_DATA=FILE`, with the fields `question` and `answer`; without the file,
made-up ones of about that length), repeated. The tokenizer is a byte-level BPE that is trained on them here, with a
chat template. keepstep's side is what the worker does of it: the SHA-256 of the file, reading, the template, the mask,
tokens and mask on disk, synced and hashed, and the plan. The other side does what TRL does to such rows with
`Dataset.map`: the template over the prompt and over all, the mask from the difference; from JSON to its Arrow cache.
Memory is the proportional set of all processes of a side together, twice a second, at its highest.

The peer is left out where the package `datasets` is not installed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from gpu.worker import ENVIRONMENT

ROWS = 50_000
PROCESSES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
DATA = Path(os.environ.get("BENCH_DATA", "../shared/data/gsm8k_test.jsonl"))
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Row = tuple[str, float, str, float | None]


def rows() -> list[tuple[str, str]]:
    """Return questions and answers."""
    if DATA.exists():
        lines = map(json.loads, DATA.read_text(encoding="utf-8").splitlines())
        return [(line["question"], line["answer"]) for line in lines]
    words = [
        f"{a}{b}" for a in ("app", "duck", "mon", "day", "farm", "mark") for b in ("le", "s", "ey", "er", "et", "")
    ]

    def text(seed: int, length: int) -> str:
        return " ".join(words[(seed * 31 + at * at) % len(words)] for at in range(length)) + "."

    return [(text(number, 20 + number % 50), text(number + 7, 20 + number * 7 % 90)) for number in range(1319)]


def make_home(home: Path, count: int) -> str:
    """Write a tokenizer and a data file of `count` rows. Return the job."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    some = rows()
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=8192, special_tokens=["<|im_start|>", "<|im_end|>"], show_progress=False)
    inner.train_from_iterator((text for pair in some for text in pair), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", chat_template=TEMPLATE)
    tokenizer.save_pretrained(home / "model")
    (home / "model" / "config.json").write_text('{"model_type": "llama"}')
    digest = hashlib.sha256()
    (home / "data").mkdir()
    with (home / "data" / "new").open("wb") as file:
        for number in range(count):
            question, answer = some[number % len(some)]
            line = json.dumps({"question": question, "answer": answer}).encode() + b"\n"
            digest.update(line)
            file.write(line)
    (home / "data" / "new").rename(home / "data" / f"{digest.hexdigest()}.jsonl")
    return digest.hexdigest()


def ours(home: Path, job: str) -> dict[str, Any]:
    """Prepare the job as the worker does."""
    import numpy as np

    from events.settings import CheckSettings, DataSettings, JobSettings, ModelSettings
    from gpu.data.plan.cache import token_cache
    from gpu.data.plan.prepare import prepare
    from gpu.data.processes.encoder_pool import preparation_context
    from gpu.data.template.fingerprint import tokenizer_sha256
    from gpu.ipc.worker_channel import Heartbeats
    from gpu.model.tokenizer import load_tokenizer
    from tests.gpu.helpers import FakeChannel

    settings = JobSettings(
        model=ModelSettings(path="model"),
        data=DataSettings(prompt="question", completion="answer"),
        checks=CheckSettings(diversity="warn"),  # repeated rows would be refused
    )
    tokenizer, channel = load_tokenizer(settings.model, home), FakeChannel()
    began = time.perf_counter()
    how = preparation_context(home, settings, tokenizer, tokenizer_sha256(tokenizer), token_cache(home), PROCESSES)
    prepared = prepare(
        home / "data" / f"{job}.jsonl", job, "rows.jsonl", settings, how, channel, Heartbeats(channel, 1)
    )
    seconds = time.perf_counter() - began
    again = time.perf_counter()
    prepare(home / "data" / f"{job}.jsonl", job, "rows.jsonl", settings, how, channel, Heartbeats(channel, 1))
    lengths = prepared.tokens.lengths()[prepared.batches.order(1)]
    whole = lengths[: len(lengths) // 4 * 4].reshape(-1, 4)
    by_chance = 1 - whole.sum(dtype=np.int64) / (whole.max(axis=1).sum(dtype=np.int64) * 4)
    return {
        "seconds": seconds,
        "again": time.perf_counter() - again,
        "tokens": prepared.plan.tokens,
        "padding": prepared.plan.padding_share,
        "by_chance": float(by_chance),
    }


def theirs(home: Path, job: str) -> dict[str, Any]:
    """Encode the same rows with `Dataset.map`."""
    from datasets import Features, List, Value, disable_progress_bars, load_dataset

    from events.settings import ModelSettings
    from gpu.model.tokenizer import load_tokenizer

    disable_progress_bars()
    tokenizer = load_tokenizer(ModelSettings(path="model"), home)
    began = time.perf_counter()

    def encode(row: dict[str, str]) -> dict[str, list[int]]:
        prompt = [{"role": "user", "content": row["question"]}]
        answer = [{"role": "assistant", "content": row["answer"]}]
        before = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
        ids = tokenizer.apply_chat_template(prompt + answer, return_dict=True)["input_ids"][:1024]
        return {"input_ids": ids, "mask": [0] * len(before) + [1] * (len(ids) - len(before))}

    path = str(home / "data" / f"{job}.jsonl")
    data = load_dataset("json", data_files=path, split="train", cache_dir=str(home / "arrow"))
    features = Features({"input_ids": List(Value("int32")), "mask": List(Value("int8"))})
    done = data.map(encode, num_proc=PROCESSES, remove_columns=data.column_names, features=features)
    return {"seconds": time.perf_counter() - began, "rows": len(done)}


def measured(side: str, home: Path, job: str) -> dict[str, Any]:
    """Run one side in a separate process. Return its output, and the peak memory with its children, MB."""
    root = str(Path(__file__).parent.parent)
    environment = {
        **os.environ,
        **ENVIRONMENT,
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
    }
    command = [sys.executable, "-m", "benchmarks.bench_data", side, str(home), job]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
        most = 0
        while child.poll() is None:
            most = max(most, sum(_pss(psutil.Process(child.pid))))
            time.sleep(0.5)
        assert child.stdout is not None
        said = child.stdout.read()
    assert child.returncode == 0, said
    return {**json.loads(said.splitlines()[-1]), "memory": most / 1e6}


def _pss(process: psutil.Process) -> Iterator[int]:
    try:
        processes = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for each in processes:
        try:
            yield each.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.ZombieProcess):  # it has just ended
            continue


def main(count: int = ROWS) -> list[Row]:
    """Rows of (name, figure, unit, ratio to the peer)."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as directory:
        home = Path(directory)
        job = make_home(home, count)
        our = measured("ours", home, job)
        there = importlib.util.find_spec("datasets") is not None
        their = measured("theirs", home, job) if there else None
    name = f"{count:,} rows, {PROCESSES} processes"
    found: list[Row] = [
        (f"prepare: {name}", count / our["seconds"], "rows/s", their and their["seconds"] / our["seconds"]),
        ("prepare: the same again, from the cache", count / our["again"], "rows/s", None),
        ("prepare: memory", our["memory"], "MB", their and our["memory"] / their["memory"]),
        ("padding: planned batches of 4", our["padding"] * 100, "%", our["padding"] / our["by_chance"]),
        ("padding: batches of 4 by chance", our["by_chance"] * 100, "%", 1.0),
    ]
    if their:
        found.insert(1, (f"datasets.map: {name}", count / their["seconds"], "rows/s", 1.0))
        found.append(("datasets.map: memory", their["memory"], "MB", 1.0))
    else:
        print("`datasets` is not installed, so there is no peer: `pip install datasets`, and try again")
    for what, figure, unit, share in found:
        print(f"{what:<48} {figure:>10,.1f} {unit:<8} {f'{share:>5.2f}' if share else ''}")
    return found


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["theirs"]):
        side = ours if sys.argv[1] == "ours" else theirs
        print(json.dumps(side(Path(sys.argv[2]), sys.argv[3])))
    else:
        main(*map(int, sys.argv[1:2]))
