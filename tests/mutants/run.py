"""The mutation check: is there a test for each thing that the promise hangs on?

    make mutants                                       all of them
    python -m tests.mutants.run --list                 what would be tried
    python -m tests.mutants.run --only journal/log.py  those whose description has this in it
    python -m tests.mutants.run --quick                asking only the tests of the same folder
    python -m tests.mutants.run --json last.json; … --survivors-of last.json

Each worker has its own copy of the tree, in memory where there is a tmpfs; nothing is changed here. The unmutated
copy is run first: a stage that fails there could not kill anything, and one that takes long there may not kill by being
slow. Exit code 1 if a mutant survived, 2 if the unmutated tree does not pass.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from tests.mutants.equivalent import EQUIVALENT
from tests.mutants.find import OPERATORS, Mutant, all_mutants
from tests.mutants.stages import Stage, command, stages_for

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(
    ".*_cache", ".git", ".venv", ".hypothesis", "__pycache__", "*.egg-info", "demo-home", "target", "dist", "build"
)
WELL_WITHIN = 3
"""A stage that takes longer than its timeout only counts as a kill if it usually takes less than a third of it."""
IMPORT_TIMEOUT_S = 60.0
PASSED = (0, 5)
"""Exit codes. pytest exits with 5 if every test was skipped because an optional package is missing."""

KILLED, SURVIVED, STILLBORN, EQUAL = "killed", "SURVIVED", "stillborn", "equivalent"


class Ran(NamedTuple):
    """One stage, once."""

    passed: bool
    timed_out: bool
    seconds: float
    output: str


class Verdict(NamedTuple):
    """What became of a mutant."""

    mutant: Mutant
    outcome: str
    by: str
    seconds: float


RUNNING: set[int] = set()
"""The sessions that are at work now, by the id of the process that leads each."""


def end(session: int) -> None:
    """End one of them, with all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)


class Unsound(Exception):
    """A stage fails where nothing is wrong: it could tell nothing."""


class Copy:
    """A separate tree for one worker, and what runs in it."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "tree"
        self._temporary = directory / "tmp"
        self._output = directory / "output"
        shutil.copytree(ROOT, self.root, ignore=LEFT_OUT, symlinks=True)

    def run(self, arguments: Sequence[str], timeout_s: float) -> Ran:
        """One command in the copy. It and its children are ended when the time is over."""
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir()
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.root),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(self._temporary),
        }
        begun = time.monotonic()
        timed_out = False
        with self._output.open("wb") as output:  # a file: what a mutant leaves running may hold a pipe for ever
            process = subprocess.Popen(
                arguments,
                cwd=self.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            RUNNING.add(process.pid)
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                timed_out = True
            finally:
                end(process.pid)
                RUNNING.discard(process.pid)
                process.wait()
        text = self._output.read_text(encoding="utf-8", errors="replace")
        return Ran(process.returncode in PASSED and not timed_out, timed_out, time.monotonic() - begun, text)

    def imports(self, path: str) -> bool:
        """Whether the module at `path` can be imported at all."""
        module = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        return self.run([sys.executable, "-c", f"import {module}"], IMPORT_TIMEOUT_S).passed

    def judge(self, mutant: Mutant, stages: Sequence[Stage], usual_s: dict[Stage, float]) -> Verdict:
        """Apply, ask stage after stage until one fails, and put the source back."""
        path = self.root / mutant.path
        source = path.read_bytes()
        begun = time.monotonic()
        slow = []
        try:
            path.write_bytes(mutant.applied(source))
            for stage in stages:
                ran = self.run(command(stage), stage.timeout_s)
                took_s = time.monotonic() - begun
                if ran.timed_out:
                    if usual_s[stage] * WELL_WITHIN <= stage.timeout_s:
                        by = f"{stage.name}: no end in {stage.timeout_s:.0f} s, usually {usual_s[stage]:.0f} s"
                        return Verdict(mutant, KILLED, by, took_s)
                    slow.append(stage.name)
                elif not ran.passed:
                    killer = killer_in(ran.output)
                    if "::" not in killer and not self.imports(mutant.path):
                        return Verdict(mutant, STILLBORN, "cannot be imported", took_s)
                    return Verdict(mutant, KILLED, killer or stage.name, took_s)
        finally:
            path.write_bytes(source)
        by = f"too slow to tell: {', '.join(slow)}" if slow else ""
        return Verdict(mutant, SURVIVED, by, time.monotonic() - begun)


def killer_in(output: str) -> str:
    """The first test that failed, or the first seed; nothing if the output names neither."""
    failed = re.search(r"^(?:FAILED|ERROR) (\S+?::.+?)(?: - .*)?$", output, re.MULTILINE)
    if failed:
        return failed[1]
    seed = re.search(r"seed\W{1,3}(\d+)", output)
    return f"simulation::seed {seed[1]}" if seed else ""


def describe(verdict: Verdict) -> str:
    how = f" by {verdict.by}" if verdict.by and verdict.outcome == KILLED else f" ({verdict.by})" if verdict.by else ""
    mutant = verdict.mutant
    return f"{verdict.outcome}{how} in {verdict.seconds:.0f} s\n    {mutant.operator:9}{mutant.description}"


R = TypeVar("R")


def in_parallel(jobs: int, copies: SimpleQueue[Copy], tasks: Sequence[Any], work: Callable[[Copy, Any], R]) -> list[R]:
    """`work(copy, task)` for each task, each with a copy to itself; in the order of the tasks."""

    def one(task: Any) -> R:
        copy = copies.get()
        try:
            return work(copy, task)
        finally:
            copies.put(copy)

    pool = ThreadPoolExecutor(jobs)
    try:
        return list(pool.map(one, tasks))
    except BaseException:  # interrupted, or unsound: what is not begun is not begun, and what is begun ends now
        pool.shutdown(wait=False, cancel_futures=True)
        for session in tuple(RUNNING):
            end(session)
        raise
    finally:
        pool.shutdown()


def baseline(jobs: int, copies: SimpleQueue[Copy], stages: Sequence[Stage]) -> dict[Stage, float]:
    """How long each stage takes when nothing is wrong. Raises Unsound if one fails."""
    usual_s: dict[Stage, float] = {}

    def measure(copy: Copy, stage: Stage) -> None:
        ran = copy.run(command(stage), stage.timeout_s)
        if not ran.passed:
            raise Unsound(f"{ran.output[-3000:]}\nthe unmutated tree does not pass: {stage.name}")
        usual_s[stage] = ran.seconds
        doubt = "" if ran.seconds * WELL_WITHIN <= stage.timeout_s else "; too slow for a timeout to count as a kill"
        print(f"baseline  {stage.name}: passes in {ran.seconds:.0f} s{doubt}", flush=True)

    in_parallel(jobs, copies, stages, measure)
    return usual_s


def table(verdicts: Sequence[Verdict]) -> str:
    outcomes = (KILLED, STILLBORN, EQUAL, SURVIVED)
    counts = Counter((verdict.mutant.operator, verdict.outcome) for verdict in verdicts)
    lines = [f"{'':10}{'mutants':>9}" + "".join(f"{outcome:>12}" for outcome in outcomes)]
    for operator in (*OPERATORS, "all"):
        numbers = [
            sum(count for (of, what), count in counts.items() if what == outcome and operator in (of, "all"))
            for outcome in outcomes
        ]
        lines.append(f"{operator:10}{sum(numbers):>9}" + "".join(f"{number:>12}" for number in numbers))
    return "\n".join(lines)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.run", description=__doc__.partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="say what would be tried, and try nothing")
    parser.add_argument("--only", action="append", metavar="SUBSTRING", help="those whose description has this in it")
    parser.add_argument("--survivors-of", type=Path, metavar="FILE", help="those that survived when FILE was written")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every verdict there")
    parser.add_argument("--quick", action="store_true", help="ask only the tests of the mutated module's own folder")
    parser.add_argument("--jobs", type=int, default=2)
    return parser.parse_args(arguments)


def chosen(options: argparse.Namespace) -> list[Mutant]:
    mutants = all_mutants(ROOT)
    if options.only:
        mutants = [mutant for mutant in mutants if any(part in mutant.description for part in options.only)]
    if options.survivors_of:
        earlier = json.loads(options.survivors_of.read_text(encoding="utf-8"))
        survived = {verdict["description"] for verdict in earlier if verdict["outcome"] == SURVIVED}
        mutants = [mutant for mutant in mutants if mutant.description in survived]
    return mutants


def judged(mutants: Sequence[Mutant], jobs: int, *, quick: bool) -> list[Verdict]:
    """Every mutant, told as soon as it is decided."""
    plan = {mutant: stages_for(ROOT, mutant.path, quick=quick) for mutant in mutants}
    memory = Path("/dev/shm")
    where = memory if os.access(memory, os.W_OK) else None
    telling = threading.Lock()

    def work(copy: Copy, mutant: Mutant) -> Verdict:
        verdict = copy.judge(mutant, plan[mutant], usual_s)
        if mutant.description in EQUIVALENT and verdict.outcome == SURVIVED:
            verdict = verdict._replace(outcome=EQUAL, by=EQUIVALENT[mutant.description])
        with telling:
            print(describe(verdict), flush=True)
        return verdict

    with tempfile.TemporaryDirectory(prefix="mutants-", dir=where, ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)  # some tests act as a second user, who imports modules of the copy
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(jobs):
            copies.put(Copy(Path(directory) / str(number)))
        usual_s = baseline(jobs, copies, list(dict.fromkeys(stage for stages in plan.values() for stage in stages)))
        return in_parallel(jobs, copies, mutants, work)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an interrupt: nothing is left running
    mutants = chosen(options)
    if options.list:
        for mutant in mutants:
            print(f"{mutant.operator:9}{mutant.description}")
        print(f"{len(mutants)} mutants")
        return 0
    if importlib.util.find_spec("tests.simulation") is None:
        print("there is no tests/simulation: a sync that is missing is seen by hardly anything")
    try:
        verdicts = judged(mutants, options.jobs, quick=options.quick)
    except Unsound as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        rows = [
            {
                "operator": verdict.mutant.operator,
                "description": verdict.mutant.description,
                "outcome": verdict.outcome,
                "by": verdict.by,
                "seconds": round(verdict.seconds, 1),
            }
            for verdict in verdicts
        ]
        options.json.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    everywhere = {mutant.description for mutant in all_mutants(ROOT)}
    survivors = [verdict for verdict in verdicts if verdict.outcome == SURVIVED]
    wrong = [f"listed as equivalent, and there is no such mutant: {name}" for name in EQUIVALENT.keys() - everywhere]
    wrong += [
        f"listed as equivalent, and killed by {verdict.by}: {verdict.mutant.description}"
        for verdict in verdicts
        if verdict.mutant.description in EQUIVALENT and verdict.outcome == KILLED
    ]
    print("\n" + table(verdicts))
    for verdict in verdicts:
        if verdict.outcome in {SURVIVED, STILLBORN, EQUAL}:
            print(describe(verdict))
    for line in wrong:
        print(line)
    return 1 if survivors or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
