"""Measure self-correction on two-digit addition, with a small model on a CPU.

To run it: `python -m benchmarks.bench_self_correction`, ten minutes on two cores.

A model of half a million weights is trained on some sums until it answers a part of the others. Then each arm is a home
that trains on the same two files, and on a third one: plain rows, or the file that self-correction makes of the
model's own answers. Accuracy is that of greedy answers to sums that were never trained, over three seeds.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

SEEDS = (1, 2, 3)
TRAINED, NEXT, ASKED = 1200, 320, 500
"""Sums that the model is trained on, those in each of the first two files, and held-out sums."""
PRETRAINED_TO, CHECK_EVERY = 0.6, 25
"""The model is trained until so many of its sums are right, checked every so many steps."""
ROOT = Path(__file__).parents[1]
END = "<|end|>"

Sum = tuple[int, int]


class Result(NamedTuple):
    """What a home came to."""

    accuracy: float
    rows: int
    tokens: int
    """Trained tokens of the last file."""
    right: float
    """Share of right own answers in the rounds."""


def main() -> None:
    """Print the accuracy of each arm for each seed, then the means."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    found: dict[str, list[float]] = {}
    for seed in SEEDS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as directory:
            for name, result in _seed(Path(directory), seed):
                found.setdefault(name, []).append(result.accuracy)
                right = f", {result.right:.0%} of own answers right" if result.right else ""
                rows = f"last file: {result.rows} rows, {result.tokens} trained tokens{right}"
                print(f"seed {seed}  {name:26} {result.accuracy:6.1%}  {rows}", flush=True)
        print(f"seed {seed}: {time.monotonic() - began:.0f} s", flush=True)
    for name, each in found.items():
        print(f"mean {name:22} {statistics.mean(each):6.1%} ± {statistics.stdev(each):.1%}")


def _seed(place: Path, seed: int) -> Iterator[tuple[str, Result]]:
    dice = random.Random(seed)
    sums = [(a, b) for a in range(10, 100) for b in range(10, 100)]
    dice.shuffle(sums)
    trained, asked = sums[:TRAINED], sums[TRAINED : TRAINED + ASKED]
    _pretrain(place / "model", trained, seed)
    files = {f"{name}.jsonl": _rows(dice.sample(trained, NEXT)) for name in ("first", "second")}
    before = _arm(place / "before", files, asked, "off", seed)
    yield "before", before
    for kind in ("rejection", "reflect"):
        made = _arm(place / kind, files, asked, kind, seed)
        yield kind, made
        plain = place / f"plain-{kind}"
        shutil.copytree(place / "before", plain)
        count = min(TRAINED, round(made.tokens / (before.tokens / before.rows)))
        third = {"third.jsonl": _rows(dice.sample(trained, count))}
        yield f"plain, tokens of {kind}", _arm(plain, third, asked, "off", seed)


def _rows(sums: Sequence[Sum]) -> str:
    made = [{"prompt": f"{a}+{b}=", "completion": str(a + b)} for a, b in sums]
    return "".join(json.dumps(row) + "\n" for row in made)


def _arm(root: Path, files: dict[str, str], asked: Sequence[Sum], kind: str, seed: int) -> Result:
    """Let a daemon train on the files until it is idle; then answer the held-out sums."""
    from cli.home.paths import Home
    from cli.home.snapshot_reader import load_state, read_records
    from events import kinds

    home = Home(root) if root.exists() else _new_home(root, kind, seed)
    for name, text in files.items():
        path = home.inbox / name
        path.write_text(text, encoding="utf-8")
        os.utime(path, (1.0, 1.0))
    words = [sys.executable, "-P", "-m", "cli", "run", "--until-idle", "--home", str(root)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    events = [record.event for record in read_records(home)]
    plan = [event.plan for event in events if isinstance(event, kinds.JobPrepared)][-1]
    rounds = [event for event in events if isinstance(event, kinds.SelfCorrectionAnswered)]
    assert kind == "off" or any(isinstance(event, kinds.SelfCorrectionFileQueued) for event in events), "no file"
    head = load_state(home)[0].state.head.checkpoint
    assert head is not None
    right = sum(each.right for each in rounds) / max(1, sum(each.answers for each in rounds))
    return Result(_accuracy(home.checkpoints / head.id, asked), plan.rows, plan.trained_tokens, right)


def _new_home(root: Path, kind: str, seed: int) -> Any:
    from cli.commands.init import create_home
    from cli.config.schema import Config
    from events.self_correction import SelfCorrectionSettings
    from events.settings import CheckpointSettings, FullSettings, JobSettings, ModelSettings, TrainingSettings

    training = TrainingSettings(
        batch_size=16, gradient_accumulation=1, epochs=1, learning_rate=3e-4, schedule="constant", seed=seed, threads=1
    )
    job = JobSettings(
        model=ModelSettings(path=str(root.parent / "model")),
        method=FullSettings(),
        training=training,
        checkpoints=CheckpointSettings(every_steps=0, every_seconds=600.0, keep=1),
    )
    correction = SelfCorrectionSettings(
        kind=kind,  # type: ignore[arg-type]  # one of the three
        every_steps=4,
        prompts=64,
        answers=4,
        max_new_tokens=8,
        temperature=1.0,
        seed=seed,
        match="numeric",
        queue_every=200,
        cost_max=1000.0,
    )
    return create_home(root, model=job.model.path, config=Config(job=job, self_correction=correction))


def _tokenizer() -> Any:
    from tests.harness.chat_tokenizer import make_chat_tokenizer

    return make_chat_tokenizer(None, [END], bos=None, eos=END)


def _pretrain(place: Path, trained: Sequence[Sum], seed: int) -> None:
    """Train a new model on the sums, and save it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)  # so small a model gains nothing from more
    torch.manual_seed(seed)
    tokenizer = _tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    texts = [_ids(tokenizer, pair) for pair in trained]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    dice = random.Random(seed)
    step = 0
    while step % CHECK_EVERY or not step or _share(model, tokenizer, trained[:ASKED]) < PRETRAINED_TO:
        step += 1
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, step / 50)
        batch = dice.sample(texts, 64)
        longest = max(len(ids) for ids, _ in batch)
        ids = torch.tensor([row + [0] * (longest - len(row)) for row, _ in batch])
        labels = torch.tensor([[-100] * start + row[start:] + [-100] * (longest - len(row)) for row, start in batch])
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)


def _ids(tokenizer: Any, pair: Sum) -> tuple[list[int], int]:
    """The tokens of a sum with its answer, and where the answer begins."""
    before = tokenizer(f"{pair[0]}+{pair[1]}=", add_special_tokens=False)["input_ids"]
    answer = tokenizer(f"{sum(pair)}{END}", add_special_tokens=False)["input_ids"]
    return before + answer, len(before)


def _accuracy(directory: Path, asked: Sequence[Sum]) -> float:
    """Share of right greedy answers of a checkpoint."""
    from transformers import AutoModelForCausalLM

    return _share(AutoModelForCausalLM.from_pretrained(directory), _tokenizer(), asked)


def _share(model: Any, tokenizer: Any, asked: Sequence[Sum]) -> float:
    import torch

    given = torch.tensor([ids[:start] for ids, start in (_ids(tokenizer, pair) for pair in asked)])  # equally long
    made = model.generate(given, max_new_tokens=8, do_sample=False, attention_mask=torch.ones_like(given))
    said = tokenizer.batch_decode(made[:, given.shape[1] :], skip_special_tokens=True)
    return sum(text.strip() == str(sum(pair)) for text, pair in zip(said, asked, strict=True)) / len(asked)


if __name__ == "__main__":
    with closing(sys.stdout):
        main()
