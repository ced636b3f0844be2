"""The parts of `gpu_check.py`: `python -m benchmarks.gpu_parts PART DEVICE [--tiny] DIRECTORY`.

Each prints one line of JSON for each check, as soon as it is done. DIRECTORY is empty and the part's own.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import tomlkit
import torch
from msgspec.structs import replace

from benchmarks import gpu_speed
from events.course import Course, Split
from events.messages import Evaluated, Loaded, OutOfMemory, Step
from events.settings import DataSettings, EvaluationSettings, JobSettings, LoraSettings
from events.values import ARITHMETIC
from gpu.runtime.determinism import enable_determinism, environment
from tests.gpu.helpers import FULL, LORA, QLORA, Home, settings
from tests.harness.tiny_model import make_rows, make_tiny_model

KEEPSTEP = [sys.executable, "-P", "-c", "from cli.main import main; main()"]

SMALL = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
"""Heads of width 64 and weights in multiples of 64: the kernels of real models, in a model that loads fast."""

NEEDS_CUDA = "needs CUDA"


class NotRun(Exception):
    """This machine cannot run the check; the message says what is missing."""


class Work:
    """The device and directory of a part, and whether to use small models."""

    def __init__(self, device: str, directory: Path, *, tiny: bool) -> None:
        self.device, self.directory, self.tiny = device, directory, tiny

    @contextmanager
    def check(self, name: str) -> Iterator[Callable[[str], None]]:
        """Report the result of the block, which receives a function for a note."""
        began, notes = time.monotonic(), list[str]()
        result = "passed"
        try:
            yield notes.append
        except NotRun as missing:
            result, notes = "not run", [str(missing)]
        except Exception as error:  # noqa: BLE001 - the other checks still run
            traceback.print_exc()
            result, notes = "FAILED", [f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"]
        say(check=name, result=result, seconds=round(time.monotonic() - began, 2), note="; ".join(notes))

    def home(self, name: str) -> Home:
        """A new home for workers in this process, with a small model."""
        path = self.directory / name
        path.mkdir()
        make_tiny_model(path / "model", **({} if self.tiny else SMALL))
        return Home(path)

    def needs_cuda(self) -> None:
        """Raise NotRun on a CPU."""
        if self.device != "cuda":
            raise NotRun(NEEDS_CUDA)


def say(**fact: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps(fact), flush=True)


# -- machine --------------------------------------------------------------------------------------------------------


def machine(work: Work) -> None:
    """Check the device, and that a product repeats to the bit."""
    with work.check("the device") as note:
        device = enable_determinism(0)
        found = environment(device)
        say(machine=found)
        assert device.type == work.device, f"training would run on {device}"
        assert torch.are_deterministic_algorithms_enabled()
        note(found["device_name"])
    with work.check("float32 is computed as float32") as note:
        # TF32 would round each number to ten bits: an error of 1e-3.
        a, b = torch.randn(512, 512, device=device), torch.randn(512, 512, device=device)
        exact = a.double() @ b.double()
        error = float(((a @ b).double() - exact).norm() / exact.norm())
        note(f"relative error {error:.1e}")
        assert error < 1e-5
    with work.check("products and attention repeat to the bit") as note:
        kinds = (torch.float32, torch.bfloat16)
        for kind in kinds:
            assert torch.equal(_attention_gradient(device, kind), _attention_gradient(device, kind)), kind
        note("with a mask and without")
    with work.check("bfloat16 is what it computes in") as note:
        work.needs_cuda()
        from gpu.runtime.arithmetic import choose_arithmetic

        assert choose_arithmetic("bf16", device, {}) == "bf16"
        note(f"compute capability {found['compute_capability']}, driver {found['driver']}")


def _attention_gradient(device: torch.device, kind: torch.dtype) -> torch.Tensor:
    """Return the gradient of causal and of masked attention for fixed numbers."""
    torch.manual_seed(5)
    q = torch.randn(2, 8, 257, 64, device=device, dtype=kind, requires_grad=True)
    mask = torch.ones(257, 257, dtype=torch.bool, device=device).tril()
    attention = torch.nn.functional.scaled_dot_product_attention
    causal, masked = attention(q, q, q, is_causal=True), attention(q, q, q, attn_mask=mask)
    (gradient,) = torch.autograd.grad((causal * masked).float().square().sum(), q)
    return gradient


# -- exactness ------------------------------------------------------------------------------------------------------


def bf16(how: JobSettings, **training: Any) -> JobSettings:
    """Return the settings with bfloat16 weights and arithmetic."""
    training = {"precision": "bf16", **training}
    return replace(how, model=replace(how.model, dtype="bfloat16"), training=replace(how.training, **training))


PACKED = DataSettings(packing=True, max_length=150)

MODES = {
    "LoRA, fp32": settings(LORA),
    "LoRA, bf16": bf16(settings(LORA)),
    "LoRA, bf16 weights in fp32 arithmetic": bf16(settings(LORA), precision="fp32"),
    "LoRA, packing, bf16": bf16(settings(LORA, data=PACKED)),
    "full, fp32": settings(FULL, max_grad_norm=0.0),
    "full, bf16": bf16(settings(FULL)),
    "DoRA, bf16": bf16(settings(LoraSettings(r=4, dropout=0.1, use_dora=True))),
}


def words(home: Home) -> list[tuple[Any, ...]]:
    """Return what the journal would record of each step of the last attempt."""
    return [(fact.global_step, fact.loss, fact.grad_norm) for fact in home.channel.of(Step)]


def cut_at_every_step(work: Work, name: str, how: JobSettings) -> str:
    """Compare a whole run with two halves, for every cut. Each half runs in a new worker."""
    home = work.home(name.replace(" ", "-").replace(",", ""))
    job = home.add(make_rows(10))
    whole = home.bits(home.train_job(home.new_session(), job, how))
    expected, computes_in = words(home), home.channel.of(Loaded)[0].environment
    assert computes_in["device"] == work.device
    total = len(expected)
    cuts = range(1, total) if not work.tiny else (1, total - 1)
    for cut in cuts:
        checkpoint = home.train_job(home.new_session(), job, how, until=cut)
        begun = words(home)
        end = home.train_job(home.new_session(), job, how, step=cut, checkpoint=checkpoint)
        assert begun + words(home) == expected, f"other losses after a cut at step {cut}"
        assert home.bits(end) == whole, f"other weights after a cut at step {cut}"
    return f"{len(cuts)} cuts of {total} steps, {computes_in[ARITHMETIC]}"


def exact(work: Work) -> None:
    """Check every mode, cut at every step."""
    for name, how in MODES.items():
        with work.check(name) as note:
            note(cut_at_every_step(work, name, how))


def qlora(work: Work) -> None:
    """Check 4-bit weights, cut at every step."""
    with work.check("QLoRA, bf16") as note:
        work.needs_cuda()
        try:
            import bitsandbytes  # noqa: F401 - fails if it is missing
        except ImportError as error:
            raise NotRun("needs bitsandbytes") from error
        note(cut_at_every_step(work, "qlora", bf16(settings(QLORA))))


def evaluation(work: Work) -> None:
    """Check that evaluations do not change the bits."""
    held_out = DataSettings(holdout=0.3)
    for name, how in {
        "LoRA, bf16": bf16(settings(LORA, data=held_out)),
        "full, fp32": settings(FULL, data=held_out),
    }.items():
        with work.check(name) as note:
            home = work.home(f"evaluation-{name[:4].strip(',')}")
            job, ends = home.add(make_rows(40)), []
            for rows in (8, 0):
                each = replace(how, evaluation=EvaluationSettings(every_steps=2, rows=rows))
                ends.append((home.bits(home.train_job(home.new_session(), job, each, evaluates=True)), words(home)))
                found = home.channel.of(Evaluated)
                assert bool(found) == bool(rows)
                if found:
                    note(f"{len(found)} evaluations, loss {found[0].loss:.2f} to {found[-1].loss:.2f}")
            assert ends[0] == ends[1]


# -- memory ---------------------------------------------------------------------------------------------------------


def memory(work: Work) -> None:
    """Take memory until a step does not fit. It must run again in two parts, with the bits of a run planned so."""
    with work.check("CUDA runs out of memory") as note:
        work.needs_cuda()
        path = work.directory / "memory"
        path.mkdir()
        # Logits take most of the memory of a step: half of the sequences need half of it.
        make_tiny_model(path / "model", **{**SMALL, "vocab_size": 65_536, "num_hidden_layers": 2})
        home = Home(path)
        long = "".join(
            json.dumps({"prompt": f"Count to {number}.", "completion": "one, two, " * 40}) + "\n"
            for number in range(16)
        )
        job = home.add(long.encode())
        how = bf16(settings(LORA, batch_size=8, gradient_accumulation=1))
        whole_bytes, _ = _measured(home, job, how, Course())
        split = Course(splits=(Split(step=1, parts=2, steps=64),))
        _, part_bytes = _measured(home, job, how, split)
        expected, expected_words = home.bits(home.last), words(home)
        assert part_bytes < whole_bytes, (part_bytes, whole_bytes)
        gc.collect()
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        in_use = torch.cuda.memory_reserved()
        ballast = torch.empty(free + in_use - (whole_bytes + part_bytes) // 2, dtype=torch.uint8, device="cuda")
        end = home.train_job(home.new_session(), job, how)
        del ballast
        found = home.channel.of(OutOfMemory)
        assert [(fact.step, fact.during) for fact in found] == [(1, "gradients")], found
        assert home.channel.course == split
        assert words(home) == expected_words
        assert home.bits(end) == expected
        note(f"needs {whole_bytes / 1e9:.2f} GB, in two parts {part_bytes / 1e9:.2f} GB; {found[0].message[:80]}")


def _measured(home: Home, job: str, how: JobSettings, course: Course) -> tuple[int, int]:
    """Run with this course. Return the peak bytes of tensors, and of the allocator."""
    gc.collect()  # models have reference cycles
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    home.last = home.train_job(home.new_session(), job, how, course=course)  # type: ignore[attr-defined]
    return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()


# -- a whole run, killed --------------------------------------------------------------------------------------------


def killed(work: Work) -> None:
    """Run `init`, `add` and `run --until-idle` twice: undisturbed, and with kills."""
    make_tiny_model(work.directory / "model", **({} if work.tiny else SMALL))
    rows = work.directory / "rows.jsonl"
    rows.write_bytes(make_rows(60 if work.tiny else 160))
    homes = {}
    with work.check("a calm run") as note:
        homes["calm"] = _made(work, rows, "calm")
        _finish(_started(homes["calm"]))
        note(f"{len(_steps(homes['calm']))} steps on {_trained_on(homes['calm'])}")
        assert _trained_on(homes["calm"]) == work.device
    with work.check("worker and daemon killed with -9: the same bits") as note:
        homes["killed"] = _made(work, rows, "killed")
        run = _started(homes["killed"])
        first = _kill_after(homes["killed"], run, 4, _worker_of(homes["killed"]))
        second = _kill_after(homes["killed"], run, first + 4, lambda: run.pid)
        assert run.wait(30) == -signal.SIGKILL
        _finish(_started(homes["killed"]))
        calm, other = (_steps(homes[name]) for name in ("calm", "killed"))
        assert other == calm, "other losses"
        assert _bits(homes["killed"]) == _bits(homes["calm"]), "other weights"
        note(f"killed after steps {first} and {second} of {len(calm)}")


def _made(work: Work, rows: Path, name: str) -> Path:
    """Make a home by `keepstep init`, edit its settings, and add a file by `keepstep add`."""
    home = work.directory / name
    _keepstep("init", str(home), "--model", str(work.directory / "model"))
    config = home / "keepstep.toml"
    wanted: dict[str, dict[str, Any]] = {
        "model": {"dtype": "bfloat16"},
        "method": {"r": 4, "dropout": 0.1},
        "data": {"holdout": 0.1},
        "training": {"precision": "bf16", "batch_size": 2, "gradient_accumulation": 2, "epochs": 2, "threads": 1},
        "evaluation": {"every_steps": 10, "rows": 4},
        "checkpoints": {"every_steps": 3, "every_seconds": 0.0},
    }
    text = tomlkit.parse(config.read_text(encoding="utf-8"))
    for section, values in wanted.items():
        for key, value in values.items():
            text[section][key] = value  # type: ignore[index]
    config.write_text(tomlkit.dumps(text), encoding="utf-8")
    _keepstep("add", str(rows), "--home", str(home))
    return home


def _keepstep(*arguments: str) -> None:
    ended = subprocess.run([*KEEPSTEP, *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"keepstep {arguments[0]}: {ended.stdout} {ended.stderr}"


def _started(home: Path) -> subprocess.Popen[bytes]:
    with (home / "run.out").open("ab") as output:
        return subprocess.Popen(
            [*KEEPSTEP, "run", "--until-idle", "--home", str(home)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


def _finish(run: subprocess.Popen[bytes]) -> None:
    code = run.wait(90)
    assert code == 0, f"`keepstep run` ended with {code}"


def _records(home: Path) -> list[dict[str, Any]]:
    """Return the events in the journal, without a line that is being written."""
    segments = sorted((home / "journal").glob("*.jsonl"))
    lines = [line for segment in segments for line in segment.read_bytes().splitlines(keepends=True)]
    return [json.loads(line)["event"] for line in lines if line.endswith(b"\n") and b'"event":' in line]


def _steps(home: Path) -> dict[int, tuple[Any, Any]]:
    """Return loss and gradient norm of each global step; a step that ran again must repeat them."""
    found: dict[int, tuple[Any, Any]] = {}
    for event in _records(home):
        assert event["kind"] not in {"divergence_detected", "job_failed"}, event
        assert event["kind"] != "attempt_failed" or event["failure"] == "killed", event
        if event["kind"] == "step_reached":
            said = (event["loss"], event["grad_norm"])
            assert found.setdefault(event["global_step"], said) == said, f"step {event['global_step']} differs"
    return found


def _trained_on(home: Path) -> str:
    return next(str(each["environment"]["device"]) for each in _records(home) if each["kind"] == "training_started")


def _bits(home: Path) -> dict[str, bytes]:
    """Return every tensor of the newest checkpoint."""
    newest = max((home / "checkpoints").glob("step-*"))
    files = sorted(newest.glob("*.safetensors"))
    assert len(files) == 2
    return {path.name: path.read_bytes() for path in files}


def _worker_of(home: Path) -> Callable[[], int]:
    def find() -> int:
        for process in psutil.process_iter(["pid", "cmdline"]):
            line = process.info["cmdline"] or []
            if "gpu.worker" in line and str(home) in line:
                return int(process.info["pid"])
        raise AssertionError("there is no worker")

    return find


def _kill_after(home: Path, run: subprocess.Popen[bytes], step: int, pid: Callable[[], int]) -> int:
    """Kill a process once the journal has this step. Return the step in the journal then."""
    while (reached := max((e["step"] for e in _records(home) if e["kind"] == "step_reached"), default=0)) < step:
        assert run.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    os.kill(pid(), signal.SIGKILL)
    return int(reached)


# -- speed ----------------------------------------------------------------------------------------------------------


def speed(shape: str, method: Any) -> Callable[[Work], None]:
    """Return a part that trains a model of this shape with keepstep and with a bare loop."""

    def run(work: Work) -> None:
        name = f"{gpu_speed.SHAPES[shape].name}, {'full' if method is FULL else 'LoRA'}"
        with work.check(f"{name}: trained by both") as note:
            if work.device != "cuda" and not work.tiny:
                raise NotRun("needs CUDA, or --tiny")
            found = gpu_speed.compare(work.directory, shape, method, work.device, tiny=work.tiny)
            for each in found:
                say(training=name, **each)
            note(gpu_speed.described(work.device, shape, tiny=work.tiny))

    return run


PARTS: dict[str, Callable[[Work], None]] = {
    "machine": machine,
    "exact": exact,
    "evaluation": evaluation,
    "memory": memory,
    "killed": killed,
    "qlora": qlora,
    "speed-qwen3": speed("qwen3", LoraSettings()),
    "speed-llama": speed("llama", LoraSettings()),
    "speed-full": speed("qwen3", FULL),
}


def main() -> None:
    """Run the part on the command line."""
    parser = argparse.ArgumentParser(prog="gpu_parts", description="One part of gpu_check.")
    parser.add_argument("part", choices=tuple(PARTS))
    parser.add_argument("device", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    PARTS[options.part](Work(options.device, options.directory, tiny=options.tiny))


if __name__ == "__main__":
    main()
