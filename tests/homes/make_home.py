"""Make a home with a long history, and write down which bits follow from it: before-renaming.tar.zst and its .json.

python -P -m tests.homes.make_home DIRECTORY

No test runs this script. It works with the keepstep of commit a89d462 (version 0.1.0), the last one before event kinds,
modules and classes got new names, and is kept to show how the home came to be. Everything in the journal is written by
the real daemon and the real commands; the script only gives orders, kills processes, and uses the faults of
`gpu/faults.py`, `gpu/crashpoints.py` and `tests/drills/worker.py`.
"""

# mypy: ignore-errors
# ruff: noqa

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.fakes.tiny_model import make_tiny_model

from tests.homes.old_home import (
    HERE,
    asked,
    consolidate,
    environment,
    facts,
    journal_events,
    keepstep,
    pack,
    train,
    unpack,
    verified,
    what_decides_bits,
)
from tests.waiting import eventually

NAME = "before-renaming"

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
}
"""7,000 weights: each copy in a checkpoint, a version or a backup has to be stored."""

SETTINGS = {
    "model.path": "model",  # relative: the home can be moved
    "data.max_length": "64",
    "data.validation": "held-out.jsonl",
    "evaluation.every_steps": "4",
    "evaluation.rows": "4",
    "training.batch_size": "2",
    "training.gradient_accumulation": "2",
    "training.epochs": "2",
    "training.learning_rate": "0.005",
    "training.warmup_steps": "2",
    "training.weight_decay": "0.01",
    "training.threads": "1",
    "checkpoints.every_steps": "2",
    "checkpoints.every_seconds": "0.0",
    "checkpoints.keep": "2",
    "checkpoints.keep_every_steps": "16",
    "memory.hold_above": "0.0",
    "inbox.settle_s": "0.0",
    "retention.days": "inf",
    "logs.days": "100000",
}
"""The last three: nothing of the home goes away because years have passed."""

LORA = {
    "method.kind": "lora",
    "method.r": "2",
    "method.alpha": "4.0",
    "method.dropout": "0.1",
    "training.learning_rate": "0.02",
}

UNREADABLE = "(unreadable)"
"""How `journal tail` calls the kind of a damaged record."""

PACE_S = 0.5
"""How long a step takes where the script has to act between two of them."""


def rows(first: int, count: int) -> str:
    """Return `count` questions and answers, numbered from `first`."""
    each = ({"prompt": f"What is {n} plus {n}?", "completion": f"It is {n + n}."} for n in range(first, first + count))
    return "".join(json.dumps(row) + "\n" for row in each)


class Maker:
    """A home, and what the script does to it."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.files = directory / "files"
        self.files.mkdir(parents=True)
        self._once = 0

    def keepstep(self, *words: str, code: int = 0) -> None:
        """Give a command."""
        print("keepstep", *words, flush=True)
        print(keepstep(self.home, *words, code=code), end="", flush=True)

    def configure(self, settings: dict[str, str]) -> None:
        """Change keys of keepstep.toml by `keepstep config set`."""
        for key, value in settings.items():
            self.keepstep("config", "set", key, value)

    def write(self, name: str, text: str) -> Path:
        """Write a data file outside of the home."""
        path = self.files / name
        path.write_text(text, encoding="utf-8")
        return path

    def add(self, name: str, text: str, *options: str) -> None:
        """Write a data file and add it to the queue."""
        self.keepstep("add", str(self.write(name, text)), *options)

    def run(self, *, code: int = 0, once: bool = False, **faults: str) -> None:
        """`keepstep run --until-idle`, with `KEEPSTEP_…` variables for faults. `once`: the first process alone dies."""
        with self.daemon("cli", "run", "--until-idle", "--home", str(self.home), once=once, **faults) as process:
            found = process.wait(timeout=300)
        assert found == code, f"keepstep run: {found}, not {code}"

    def paced(self, *options: str, **faults: str) -> Any:
        """A daemon whose real worker takes PACE_S for each step."""
        drill = {"DRILL": "never:1:hang", "DRILL_WORKER": "gpu.worker", "DRILL_PACE": str(PACE_S), **faults}
        return self.daemon("tests.fakes.daemon", str(self.home), "tests.drills.worker", *options, once=True, **drill)

    @contextmanager
    def daemon(self, *command: str, once: bool = False, **faults: str) -> Iterator[subprocess.Popen[bytes]]:
        """A daemon for the time of a block."""
        variables = {f"KEEPSTEP_{name}": value for name, value in faults.items()}
        if once:
            self._once += 1
            variables["KEEPSTEP_CRASH_ONCE"] = str(self.files / f"once-{self._once}")
            variables["KEEPSTEP_DRILL_ONCE"] = variables["KEEPSTEP_CRASH_ONCE"]
        print("daemon", *command, faults, flush=True)
        process = subprocess.Popen([sys.executable, "-P", "-m", *command], env={**environment(), **variables})
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the journal's events of a kind, as far as they are written now."""
        lines = [line for path in sorted(self.home.glob("journal/0*.jsonl")) for line in path.open("rb")]
        found = [json.loads(line)["event"] for line in lines if b'"kind":"%b"' % kind.encode() in line]
        return [event for event in found if event["kind"] == kind]

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for something."""
        eventually(condition, 120)

    def until_more(self, kind: str, count: int = 1) -> Callable[[], None]:
        """Return a function that waits for `count` more events of this kind than there are now."""
        wanted = len(self.events(kind)) + count
        return lambda: self.until(lambda: len(self.events(kind)) >= wanted)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """kill -9."""
        process.send_signal(signal.SIGKILL)
        process.wait()

    @property
    def step(self) -> int:
        """The global step that is committed."""
        return int(asked(self.home, "status")["global_step"])


# -- the history, part by part --------------------------------------------------------------------------------------


def begin(maker: Maker) -> None:
    """A home with its base model inside, and a file trained whole, which the head is moved away from."""
    home = maker.home
    make_tiny_model(home / "model", **SIZES)
    print(keepstep_init(home))
    maker.configure(SETTINGS)
    (home / "held-out.jsonl").write_text(rows(900, 6), encoding="utf-8")
    maker.add("whole.jsonl", rows(0, 8))
    maker.run()
    maker.keepstep("versions", "restore", "origin")
    maker.configure(LORA)


def keepstep_init(home: Path) -> str:
    """`keepstep init`, which takes no --home."""
    command = [sys.executable, "-P", "-m", "cli", "init", str(home), "--model", str(home / "model"), "--method", "full"]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=True).stdout


def lose_records(maker: Maker) -> None:
    """Two records are damaged on the disk, and a person accepts the loss."""
    maker.keepstep("pause")
    maker.keepstep("resume")
    segment = sorted(maker.home.glob("journal/0*.jsonl"))[-1]
    data = segment.read_bytes()
    at = data.rindex(b'"pause_requested"')
    segment.write_bytes(data[:at] + b"?" + data[at + 1 :])
    maker.keepstep("journal", "verify", code=3)
    maker.keepstep("journal", "repair", "--accept-loss")


def fill_the_queue(maker: Maker) -> None:
    """Good files, a broken one, an identical one, one that is removed; moved, held and released."""
    maker.add("first.jsonl", rows(10, 16))
    maker.add("second.jsonl", rows(30, 12))
    maker.add("broken.jsonl", rows(50, 2) + "{not json\n")
    maker.add("removed.jsonl", rows(60, 4), "--priority", "low")
    maker.keepstep("add", str(maker.write("identical.jsonl", rows(30, 12))))
    maker.keepstep("queue", "move", "removed.jsonl", "--priority", "high")
    maker.keepstep("queue", "hold", "second.jsonl")
    maker.keepstep("queue", "release", "second.jsonl")
    maker.keepstep("queue", "remove", "removed.jsonl")
    dropped = maker.home / "inbox" / "high" / "dropped.jsonl"
    dropped.write_text(rows(70, 4), encoding="utf-8")


def crash(maker: Maker) -> None:
    """Worker and daemon are killed, in the middle of a checkpoint and at other bad moments."""
    maker.run(CRASH_AT="before_manifest:2", once=True)
    maker.add("third.jsonl", rows(80, 12))
    maker.run(CRASH_AT="checkpoint_reported:2", code=-signal.SIGKILL)
    maker.run()


def publish(maker: Maker) -> None:
    """A backup, version v001 at the second attempt, and an older backup deleted."""
    maker.keepstep("backup", "create", "--reason", "before the first version")
    maker.keepstep("backup", "verify")
    maker.keepstep("consolidate", "-d", "not yet")
    maker.keepstep("consolidate", "--cancel")
    maker.keepstep("consolidate", "-d", "the first version")
    maker.run(CRASH_AT="merged", once=True)
    maker.keepstep("backup", "cleanup", "--retention-days", "0", "--execute")


def leave_batches_out(maker: Maker) -> None:
    """A batch without a finite loss, a second one that fails the job, a step that does not fit into memory.

    One of the failed jobs is tried again, one stays as it is.
    """
    maker.add("failed.jsonl", rows(500, 12))
    step = maker.step
    maker.run(FAULTS=f"nan:{step + 1},nan:{step + 3}", code=1)
    maker.add("nan.jsonl", rows(100, 12))
    step = maker.step
    maker.run(FAULTS=f"nan:{step + 2},nan:{step + 4}", code=1)
    maker.keepstep("retry", "nan.jsonl")
    maker.run()
    maker.add("large.jsonl", rows(120, 12))
    maker.run(FAULTS=f"forward:{maker.step + 3}")


def diverge(maker: Maker) -> None:
    """A step has another loss when it is run again after kill -9."""
    maker.add("diverged.jsonl", rows(140, 8))
    step = maker.step + 1
    with maker.paced("--until-idle", FAULTS=f"spike:{step}") as daemon:
        reached = maker.until_more("step_reached")
        reached()
        maker.kill(daemon)
    maker.run()


def retrain(maker: Maker) -> None:
    """A file that was trained before is trained again, and one of another format for the first time."""
    maker.keepstep("add", "--again", str(maker.files / "second.jsonl"))
    maker.add("prose.txt", "It is a plain text of a few words. It has two sentences.\n\nAnd a second paragraph.\n")
    maker.run()


def give_orders(maker: Maker) -> None:
    """Pause, an edit that cannot be used, resume, skip, stop; all while a daemon runs."""
    maker.add("skipped.jsonl", rows(400, 48))
    with maker.paced() as daemon:
        maker.until_more("step_reached", 3)()
        yielded = maker.until_more("attempt_yielded")
        maker.keepstep("pause")
        yielded()
        edit_badly(maker)
        reached = maker.until_more("step_reached", 2)
        maker.keepstep("resume")
        reached()
        skipped = maker.until_more("job_skipped")
        maker.keepstep("skip")
        skipped()
        maker.keepstep("stop")
        assert daemon.wait(60) == 0


def edit_badly(maker: Maker) -> None:
    """keepstep.toml gets a value that is not allowed, and a good one again; then a setting of the daemon's own."""
    config = maker.home / "keepstep.toml"
    good = config.read_text(encoding="utf-8")
    refused, fixed = maker.until_more("config_refused"), maker.until_more("config_mended")
    config.write_text(good.replace("epochs = 2", "epochs = 0"), encoding="utf-8")
    refused()
    config.write_text(good, encoding="utf-8")
    fixed()
    changed = maker.until_more("config_changed")
    maker.configure({"logs.max_mb": "50"})
    changed()


def evaluate_badly(maker: Maker) -> None:
    """The worker crashes in an evaluation: the job continues without."""
    maker.add("evaluated.jsonl", rows(200, 8))
    with maker.paced("--until-idle", DRILL="evaluated_rows:3:segv") as daemon:
        assert daemon.wait(120) == 0


def spoil_a_checkpoint(maker: Maker) -> None:
    """A bit of the head flips on the disk; it goes to quarantine, and its steps are run again."""
    head = asked(maker.home, "status")["checkpoint"]["id"]
    path = maker.home / "checkpoints" / head / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    maker.run()


def lose_the_model(maker: Maker) -> None:
    """The model is not where it was; a person puts it back."""
    maker.add("held-up.jsonl", rows(220, 4))
    (maker.home / "model").rename(maker.home / "elsewhere")
    maker.run(code=1)
    (maker.home / "elsewhere").rename(maker.home / "model")
    maker.keepstep("resume")
    maker.run()


def run_short(maker: Maker) -> None:
    """The limits of the disk are set to what no machine has, and back; then others take the machine's memory."""
    maker.configure({"disk.soft_gb": "1000000.0", "disk.hard_gb": "1000000.0"})
    with maker.daemon("cli", "run", "--home", str(maker.home)) as daemon:
        maker.until(lambda: maker.events("storage_exhausted") and maker.events("storage_low"))
        maker.configure({"disk.soft_gb": "0.0", "disk.hard_gb": "0.0"})
        maker.until(lambda: maker.events("storage_freed") and maker.events("storage_recovered"))
        maker.keepstep("stop")
        assert daemon.wait(60) == 0
    maker.configure({"memory.hold_above": "0.85"})
    figures = maker.home / "run" / "memory.json"
    figures.write_text(json.dumps({"total": 16 * 10**9, "available": 10**9}), encoding="utf-8")
    with maker.daemon("tests.drills.short_of_memory", str(maker.home), "gpu.worker") as daemon:
        maker.until(lambda: maker.events("memory_low"))
        figures.write_text(json.dumps({"total": 16 * 10**9, "available": 14 * 10**9}), encoding="utf-8")
        maker.until(lambda: maker.events("memory_recovered"))
        maker.keepstep("stop")
        assert daemon.wait(60) == 0
    figures.unlink()
    maker.configure({"memory.hold_above": "0.0"})


def go_back(maker: Maker) -> None:
    """Version v002, and back to v001; a v003 by schedule, which is deleted; a checkpoint restored from its backup."""
    maker.keepstep("consolidate", "-d", "the second version")
    maker.run()
    maker.keepstep("versions", "rollback")
    maker.add("branch.jsonl", rows(240, 8))
    a_minute_ago = datetime.now(UTC) - timedelta(minutes=1)  # after the first start of a daemon, as it must be
    maker.configure({"consolidation.schedule": f"{a_minute_ago:%H:%M}"})
    maker.run()
    maker.configure({"consolidation.schedule": ""})
    maker.keepstep("versions", "restore", "v001")
    maker.keepstep("versions", "delete", "v003", "--confirm")
    first = next(each["id"] for each in asked(maker.home, "backup", "list") if "v001" in each["id"])
    maker.keepstep("backup", "restore", first)
    maker.keepstep("versions", "restore", "v001")


def outlive(maker: Maker) -> None:
    """A process that was started as a worker of this home has no daemon, and a day passes."""
    words = ["gpu.worker", "--home", str(maker.home), "--socket", str(maker.home / "run" / "worker-0badcafe.sock")]
    orphan = subprocess.Popen(["/usr/bin/python3", "-c", "import time; time.sleep(600)", *words])
    try:
        with maker.daemon("tests.homes.make_home", "--a-day", str(maker.home)) as daemon:
            assert daemon.wait(120) == 0
    finally:
        orphan.kill()
        orphan.wait()


def let_a_day_pass(root: Path) -> None:
    """A daemon with nothing to do, whose clock runs 100 million times as fast."""
    from cli.clock import Clock
    from cli.keepalive import run_daemon

    from cli.home import Home

    class Fast(Clock):
        def monotonic(self) -> float:
            return time.monotonic() * 1e8

    sys.exit(run_daemon(Home(root, clock=Fast()), until_idle=True, write=print))


def leave_in_the_middle(maker: Maker) -> None:
    """A job of which some steps are committed and some are not, with a batch left out and one in smaller parts, mixed
    with rows of earlier files; its daemon was killed. Another one waits, and one is held."""
    maker.configure({"data.replay": "0.25", "training.learning_rate": "0.01", "checkpoints.keep": "20"})
    maker.add("in-progress.jsonl", rows(300, 20))
    maker.add("waiting.jsonl", rows(330, 12))
    maker.add("waiting-held.jsonl", rows(350, 4))
    maker.keepstep("queue", "hold", "waiting-held.jsonl")
    step = maker.step
    with maker.paced(FAULTS=f"forward:{step + 2},nan:{step + 3}") as daemon:
        maker.until(lambda: any(each["global_step"] == step + 7 for each in maker.events("step_reached")[-1:]))
        maker.kill(daemon)


HISTORY = (
    begin,
    lose_records,
    fill_the_queue,
    crash,
    leave_batches_out,
    diverge,
    publish,
    run_short,
    retrain,
    give_orders,
    evaluate_badly,
    spoil_a_checkpoint,
    lose_the_model,
    go_back,
    outlive,
    leave_in_the_middle,
)


def write_expectations(archive: Path, scratch: Path) -> None:
    """Continue a copy of the packed home, and write next to it what is in it and what came of that."""
    home = unpack(archive, scratch)
    kinds = Counter(event["kind"] for event in journal_events(home))
    del kinds[UNREADABLE]
    there = facts(home)
    proof = asked(home, "lineage", there["left"][-1], "--prove")
    assert proof["proved"], proof
    expected = {
        "made_by": "keepstep 0.1.0, commit a89d462",
        "facts": there,
        "verified": verified(home),
        "kinds": dict(sorted(kinds.items())),
        "proved": {there["left"][-1]: len(proof["steps"])},
        "weights": {**train(home), **consolidate(home)},
        "environment": what_decides_bits(home),
    }
    text = json.dumps(expected, indent=2) + "\n"
    archive.with_name(f"{NAME}.json").write_text(text, encoding="utf-8")
    print(text, f"{archive.stat().st_size:,} bytes")
    shutil.rmtree(home)


def main() -> None:
    """Make the home, pack it, and write down what is expected of it."""
    if sys.argv[1] == "--a-day":
        let_a_day_pass(Path(sys.argv[2]))
    directory = Path(sys.argv[1]).absolute()
    maker = Maker(directory)
    for part in HISTORY:
        print(f"\n== {part.__name__}: {part.__doc__}", flush=True)
        part(maker)
    archive = HERE / f"{NAME}.tar.zst"
    pack(maker.home, archive)
    write_expectations(archive, directory / "copy")


if __name__ == "__main__":
    os.umask(0o077)
    main()
