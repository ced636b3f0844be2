"""Kill -9, again and again: the real daemon, the real worker, real training.

    python -m tests.crash.torture --kills 500 --seed 1

Each round starts the daemon, waits until the journal has grown by some records (so that kills fall into the work and
not only into the seconds that importing torch takes) or for a random time, and then kills the daemon, the worker, or
both. What is checked at the end is in `check`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from cli.home import Home
from events import kinds
from events.codec import Record, decode_record
from journal import START, JournalError, follow
from tests.crash.homes import learned, log_of, make_home, run_to_the_end, start_daemon, state_of

WORKER_GONE_S = 5.0
ROUND_S = 120.0


def torture(home: Home, *, kills: int, seed: int) -> Counter[str]:
    """Kill `kills` times, then let the daemon finish; how often each was hit. The same seed makes the same choices.

    A home that finishes early gets no more kills than it could take: the files are small, and what has been learned
    stays learned, so `kills` beyond that need more files, which are added as long as kills are left.
    """
    choose = random.Random(seed)
    hit: Counter[str] = Counter()
    more = 0
    while hit.total() < kills:
        process = start_daemon(home)
        if process.poll() is None and _kill_once(home, process, choose, hit):
            continue
        code = process.wait(timeout=ROUND_S)
        assert code == 0, f"the daemon ended with {code}\n{log_of(home)}"
        more += 1
        _add_file(home, more)
    code = run_to_the_end(home)
    assert code == 0, f"the last run ended with {code}\n{log_of(home)}"
    return hit


def _kill_once(home: Home, process: subprocess.Popen[bytes], choose: random.Random, hit: Counter[str]) -> bool:
    """Wait for the moment, and kill; False if the daemon was done before."""
    victim = choose.choice(["daemon", "worker", "both"])
    by_records = choose.random() < 0.8
    records, seconds = choose.randint(1, 24), choose.uniform(0.0, 8.0)
    jitter_s = choose.uniform(0.0, 0.03)
    began, first = time.monotonic(), _last_seq(home)
    while process.poll() is None and time.monotonic() - began < ROUND_S:
        if _last_seq(home) - first >= records if by_records else time.monotonic() - began >= seconds:
            break
        time.sleep(0.002)
    time.sleep(jitter_s)
    if process.poll() is not None:
        return False
    workers = [child.pid for child in psutil.Process(process.pid).children()]
    if victim in {"worker", "both"}:
        for pid in workers:
            _kill(pid)
    if victim in {"daemon", "both"} or not workers:
        _kill(process.pid)
        process.wait()
        _wait_until_gone(workers)
    else:
        _wait_for_news(home, process)
        _kill(process.pid)  # the daemon saw its worker die and wrote so; now it goes as well
        process.wait()
    hit[victim] += 1
    return True


def _wait_for_news(home: Home, process: subprocess.Popen[bytes]) -> None:
    seen, began = _last_seq(home), time.monotonic()
    while process.poll() is None and _last_seq(home) == seen and time.monotonic() - began < WORKER_GONE_S:
        time.sleep(0.01)


def _wait_until_gone(pids: list[int]) -> None:
    """A worker must not outlive its daemon."""
    deadline = time.monotonic() + WORKER_GONE_S
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() < deadline, f"a worker outlived its daemon: {pids}"
        time.sleep(0.01)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _last_seq(home: Home) -> int:
    """How many lines the journal has: near enough to records to choose a moment by."""
    return sum(path.read_bytes().count(b"\n") for path in home.journal.glob("*.jsonl"))


def _add_file(home: Home, number: int) -> None:
    rows = "".join(f'{{"prompt": "Round {number}, {n}?", "completion": "{n * number}"}}\n' for n in range(40))
    path = home.inbox / f"more-{number}.jsonl"
    path.write_text(rows, encoding="utf-8")
    os.utime(path, (1.0, 1.0))


def records_of(home: Home) -> list[Record]:
    """Every record of the journal."""
    return follow(home.journal, decode_record, START)[0]


def check(home: Home) -> None:
    """What must hold after any number of kills, once the daemon has come to its end.

    Every step of every job is in the committed timeline exactly once and in order; steps that were run again gave
    the same bits; nothing waits, nothing failed; no debris.
    """
    state, records = state_of(home), records_of(home)
    committed: dict[int, tuple[str, int]] = {}
    reached: dict[int, tuple[str, int]] = {}
    goals: dict[str, int] = {}
    for record in records:
        event = record.event
        assert not isinstance(event, kinds.DivergenceDetected), f"not the same bits: {event}"
        if isinstance(event, kinds.JobPrepared):
            goals[event.job] = event.plan.steps_total
        elif isinstance(event, kinds.StepReached):
            reached[event.global_step] = (event.job, event.step)
        elif isinstance(event, kinds.CheckpointCommitted):
            for step in range(event.global_step, 0, -1):
                if step in committed:
                    break
                committed[step] = reached[step]
    for job, goal in goals.items():
        steps = [step for _, (name, step) in sorted(committed.items()) if name == job]
        assert steps == list(range(1, goal + 1)), f"job {job[:12]} was learned as {steps}, to be 1..{goal}"
    assert state.counts.trained == len(goals)
    assert not state.begun
    assert not len(state.queue)
    assert not len(state.failed)
    named = {checkpoint.id for checkpoint in state.checkpoints}
    assert {path.name for path in home.checkpoints.iterdir()} == named
    assert not list(home.inbox.glob("*.jsonl"))
    assert not list((home.data / ".arriving").iterdir())
    assert {path.stem for path in home.data.glob("*.jsonl")} == set(goals)


def main() -> None:
    """For `make torture`."""
    parser = argparse.ArgumentParser(description="Kill the real daemon while it trains, and compare the weights.")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keepstep-torture-") as directory:
        home = make_home(Path(directory) / "tortured")
        began = time.monotonic()
        print(f"seed {arguments.seed}: {arguments.kills} kills", flush=True)
        hit = torture(home, kills=arguments.kills, seed=arguments.seed)
        check(home)
        print(
            f"survived {dict(hit)} in {time.monotonic() - began:.0f} s; now the same files without a kill", flush=True
        )
        calm = make_calm_twin(home, Path(directory) / "calm")
        same = learned(calm) == learned(home)
        print("weights and optimizer state are " + ("bit for bit the same" if same else "DIFFERENT"))
        if not same:
            print(f"again with: python -m tests.crash.torture --kills {arguments.kills} --seed {arguments.seed}")
            sys.exit(1)


def make_calm_twin(home: Home, root: Path) -> Home:
    """A home that learns the same files in the same order, and is left alone."""
    job = next(record.event.settings for record in records_of(home) if isinstance(record.event, kinds.AttemptStarted))
    calm = make_home(root, method=job.method, precision=job.training.precision)
    names = [record.event.name for record in records_of(home) if isinstance(record.event, kinds.FileEnqueued)]
    for path in calm.inbox.glob("*.jsonl"):
        if path.name not in names:
            path.unlink()
    assert run_to_the_end(calm) == 0, log_of(calm)
    for number in range(1, len(names) - 1):
        _add_file(calm, number)
        assert run_to_the_end(calm) == 0, log_of(calm)
    return calm


if __name__ == "__main__":
    try:
        main()
    except JournalError as error:
        sys.exit(str(error))
