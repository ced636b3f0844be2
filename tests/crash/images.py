"""Every state that a crash may leave, from the real calls of a real run, each held against what had been promised.

    python -m tests.crash.images --seed 1
    python -m tests.crash.images --worker tests.harness.worker --limit 200
    python -m tests.crash.images --recording DIRECTORY --image 512:hostile:3,7/0,2 --into DIRECTORY

A scenario (`scenario.py`) is played once under strace; its calls are replayed on model disks (`disk.py`), and after
each of them every image that a kill or a power cut might leave is built and checked (`promises.py`). The last form
makes one image real, to be looked at.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from cli.home.paths import Home
from events.codec import Record, decode_record
from events.kinds import AttemptInterrupted
from journal import START, follow
from tests.crash import strace_log
from tests.crash.contents import Tree
from tests.crash.promises import Checker, Listener, Said, materialise
from tests.crash.recorded_disk import Disk, is_unwatched
from tests.crash.scenario import FAKE, REAL
from tests.crash.strace_log import Call

KINDS = ("kill", "ext4", "hostile")
TRIES = 6  # a scenario that missed its moment is played again, and one whose kill fell within a call
MEMORY = Path("/dev/shm")


class Recording(NamedTuple):
    """A scenario that was played: what was called, and what the journal says at the end."""

    base: Path
    worker: str
    calls: list[Call]
    records: list[Record]

    @property
    def commits(self) -> bool:
        """Whether its checkpoints are to be whole: those of a fake worker are if it syncs what it writes."""
        syncs = (call for call in self.calls if call.kind == "sync")
        return self.worker == REAL or any(call.path.startswith("home/checkpoints/.staging-") for call in syncs)


class Failure(NamedTuple):
    """An image that breaks a promise."""

    image: str
    call: Call
    problems: tuple[str, ...]

    def __str__(self) -> str:
        after = f"{self.call.kind} {self.call.path}" + (f" → {self.call.target}" if self.call.target else "")
        return f"{self.image} (after {after}): {'; '.join(self.problems)}"


class Report:
    """What came of it."""

    def __init__(self) -> None:
        self.calls = 0
        self.built: Counter[str] = Counter()
        self.distinct: set[object] = set()
        self.checked = 0
        self.failures: list[Failure] = []


def scratch_directory() -> tempfile.TemporaryDirectory[str]:
    """In memory where there is such a place: thousands of images pass through it."""
    return tempfile.TemporaryDirectory(prefix="keepstep-images-", dir=MEMORY if MEMORY.is_dir() else None)


def environment() -> dict[str, str]:
    """For processes that shall find this very source, and the tests with it."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def record(directory: Path, worker: str) -> Recording:
    """Play the scenario under strace, in `directory`."""
    model: list[str] = []
    if worker == REAL:
        from tests.harness.tiny_model import make_tiny_model

        model = ["--model", str(make_tiny_model(directory / "tiny-model"))]
    for attempt in range(1, TRIES + 1):
        base = directory / f"played-{attempt}"
        base.mkdir(parents=True)
        scenario = [sys.executable, "-m", "tests.crash.scenario", "--base", str(base), "--worker", worker, *model]
        log = directory / f"played-{attempt}.strace"
        played = subprocess.run(
            [*strace_log.command(log), *scenario], capture_output=True, text=True, check=False, env=environment()
        )
        missed = played.stderr[-2000:]
        if played.returncode == 0:
            try:
                recording = read_recording(base, worker)
            except strace_log.KilledInside as error:
                missed = f"killed inside of {error}"
            else:
                if any(isinstance(record.event, AttemptInterrupted) for record in recording.records):
                    return recording
                missed = "killed between two attempts"
    raise RuntimeError(f"the scenario did not come to its end in {TRIES} tries: {missed}")


def read_recording(base: Path, worker: str) -> Recording:
    """A recording made earlier. Raises ValueError if replaying its calls does not give what really stands there."""
    calls = strace_log.read_log(base.with_suffix(".strace"), base)
    disk = Disk("ext4")
    for call in calls:
        disk.apply(call)
    replayed, real = disk.killed(), _real_tree(base)
    if replayed.keys() != real.keys():
        raise ValueError(f"the recording lacks something: {sorted(replayed.keys() ^ real.keys())}")
    for path, blob in replayed.items():
        if (blob.data if blob else None) != real[path]:
            raise ValueError(f"the recording of {path} lacks something")
    return Recording(base, worker, calls, follow(base / "home" / "journal", decode_record, START)[0])


def _real_tree(base: Path) -> dict[str, bytes | None]:
    found = {}
    for path in sorted((base / "home").rglob("*")):
        name = path.relative_to(base).as_posix()
        if not is_unwatched(name):
            found[name] = None if path.is_dir() else path.read_bytes()
    return found


def walk(
    recording: Recording, kinds: tuple[str, ...], *, limit: int, seed: int, only: Callable[[int], bool] = lambda _: True
) -> Iterator[tuple[str, Call, Tree, Said]]:
    """Every image of the recording, by its name, with the call that it follows and what had been said by then."""
    for kind in kinds:
        disk, listener = Disk("ext4" if kind == "kill" else kind), Listener(recording.records)
        for number, call in enumerate(recording.calls):
            news = disk.apply(call)
            received = call.path.startswith("said/") and call.kind == "write" and listener.receive(call.path, call.data)
            if (news is None and not received) or not only(number):
                continue
            if kind == "kill":
                yield f"{number}:kill:", call, disk.killed(), listener.said
                continue
            for name, tree in disk.images(None if received else news, limit, f"{seed}:{number}:{kind}"):
                yield f"{number}:{kind}:{name}", call, tree, listener.said


def check(
    recording: Recording,
    *,
    limit: int = 64,
    seed: int = 1,
    kinds: tuple[str, ...] = KINDS,
    failures_max: int = 1_000_000,
    images_max: int = 1_000_000_000,
) -> Report:
    """Build and check the images. At most `limit` power cuts after each call; of more, a sample by `seed`."""
    report = Report()
    report.calls = len(recording.calls)
    seen: set[object] = set()
    with scratch_directory() as scratch:
        checker = Checker(recording.records, Path(scratch), whole_checkpoints=recording.commits)
        for name, call, tree, said in walk(recording, kinds, limit=limit, seed=seed):
            report.built[name.split(":")[1]] += 1
            image = frozenset((path, id(blob)) for path, blob in tree.items())
            report.distinct.add(image)
            if (image, said) in seen:
                continue
            seen.add((image, said))
            report.checked += 1
            problems = checker.problems(tree, said)
            if problems:
                report.failures.append(Failure(name, call, tuple(problems)))
            if len(report.failures) >= failures_max or report.checked >= images_max:
                break
    return report


def sample(recording: Recording, count: int, *, limit: int, seed: int) -> list[tuple[str, Tree]]:
    """Some images, by `seed`, of complete homes."""
    choose = random.Random(seed)
    made = next(n for n, call in enumerate(recording.calls) if call.data == b"made\n")
    moments = {choose.randrange(made, len(recording.calls)) for _ in range(count * 4)}
    by_moment: dict[str, list[tuple[str, Tree]]] = {}
    for name, _, tree, _ in walk(recording, KINDS[1:], limit=limit, seed=seed, only=lambda n: n in moments):
        by_moment.setdefault(name.rpartition(":")[0], []).append((name, tree))
    picked = sorted(by_moment)
    choose.shuffle(picked)
    return [choose.choice(by_moment[moment]) for moment in picked[:count]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Build and check every crash image of a recorded run.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=int, default=64, help="power cuts after each call")
    parser.add_argument("--worker", choices=[FAKE, REAL], default=REAL)
    parser.add_argument("--keep", type=Path, help="where to keep the recording; else a new directory")
    parser.add_argument("--recording", type=Path, help="a kept recording, instead of playing the scenario")
    parser.add_argument("--image", help="make this one real, and check it")
    parser.add_argument("--into", type=Path, help="where")
    arguments = parser.parse_args()
    reason = "" if arguments.recording else strace_log.why_not()
    if reason:
        sys.exit(reason)
    began = time.monotonic()
    if arguments.recording:
        recording = read_recording(arguments.recording, arguments.worker)
    else:
        kept = arguments.keep or Path(tempfile.mkdtemp(prefix="keepstep-recording-"))
        print(f"playing the scenario with {arguments.worker} in {kept}", flush=True)
        recording = record(kept, arguments.worker)
    if arguments.image:
        _show(recording, arguments.image, arguments.into, limit=arguments.limit, seed=arguments.seed)
        return
    played_s = time.monotonic() - began
    report = check(recording, limit=arguments.limit, seed=arguments.seed)
    print(f"calls      {report.calls}, {len(recording.records)} records, played and read in {played_s:.0f} s")
    print(f"images     {report.built.total()}: {', '.join(f'{n} {kind}' for kind, n in report.built.items())}")
    print(f"different  {len(report.distinct)}; checked with what had been said by then: {report.checked}")
    print(f"failures   {len(report.failures)}")
    kinds = {re.sub(r"[0-9a-f]{12}|\d+", "…", " ".join(failure.problems)): failure for failure in report.failures[::-1]}
    for failure in sorted(kinds.values()):  # the first of each kind
        print(f"  {failure}")
        print(
            f"    python -m tests.crash.images --recording {recording.base} --worker {recording.worker} "
            f"--seed {arguments.seed} --limit {arguments.limit} --image '{failure.image}' --into IMAGE"
        )
    print(f"seconds    {time.monotonic() - began:.0f}")
    sys.exit(bool(report.failures))


def _show(recording: Recording, image: str, into: Path, *, limit: int, seed: int) -> None:
    number, kind, _ = image.split(":", 2)
    for name, call, tree, said in walk(recording, (kind,), limit=limit, seed=seed, only=lambda n: n == int(number)):
        if name == image:
            home = Home(materialise(tree, into) / "home")
            with scratch_directory() as scratch:
                problems = Checker(recording.records, Path(scratch), whole_checkpoints=recording.commits).problems(
                    tree, said
                )
            print(f"{home.root} after {call.kind} {call.path}; said: {said}\n" + "\n".join(problems))
            return
    sys.exit(f"there is no image {image}")


if __name__ == "__main__":
    main()
