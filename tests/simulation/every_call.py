"""One small history, and every call in it that touches the disk failing in turn.

    python -m tests.simulation.every_call

Three files (one of them cannot be trained from, one is the first again), three commits, pruning, a rotation of the
journal. The n-th call of the daemon or of its worker fails, for every n, in every way; once or for ever. The same once
more in a daemon that has to recover first, from a power cut in the middle of an append; and in one that makes a version
of what was trained, brings the head of before back from its backup, and makes the next.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from core import commands
from core.commands import AnyCommand
from tests.harness.fake_disk import PowerCut
from tests.simulation.fault import Fault
from tests.simulation.runs import check_exit, run_undisturbed
from tests.simulation.world import ROOT, World

SCENES = {
    "anew": "",
    "recovering": " in recovery",
    "consolidating": " of a consolidation",
    "restoring": " of a restore",
}

KINDS = ("EIO", "ENOSPC", "short", "kill", "power cut")


class Case(NamedTuple):
    """One way to fail."""

    victim: str
    kind: str
    for_ever: bool
    scene: str
    call: int

    def __str__(self) -> str:
        when = SCENES[self.scene]
        return f"{self.kind}{' for ever' if self.for_ever else ''} at call {self.call} of the {self.victim}{when}"


def begin(world: World, scene: str) -> None:
    """The home at the start of the history; "recovering": after a power cut that left much to recover."""
    world.hostile = False
    world.every, world.keep = 1, 1
    world.lay_out()
    user = world.disk.process("user")
    for name, data in (("a", b"1\n2\n3\n"), ("b", b"4\nbad\n"), ("c", b"1\n2\n3\n")):
        world.write(user, ROOT / "inbox" / f"{name}.jsonl", data)
    world.clock.passed += 100.0
    if scene in {"consolidating", "restoring"}:
        assert world.run_daemon() is None
        _ask(world, commands.RequestConsolidation(description=""))
    if scene == "restoring":
        assert world.run_daemon() is None
        with world.store(world.inspector()) as store:
            (backup,) = store.state.retention.backups
        _ask(world, commands.MoveHead(backup=backup.id), commands.RequestConsolidation(description=""))
    if scene == "recovering":
        world.cut_at = world.calls + 300  # in the middle of training
        assert isinstance(world.run_daemon(), PowerCut)
        world.cut_at = None
        world.cut_power()


def _ask(world: World, *wanted: AnyCommand) -> None:
    process = world.disk.process("person")
    with world.store(process) as store:
        for command in wanted:
            store.execute(command)
    process.die()


def reached(case: Case) -> bool:
    """Play one case; whether there was such a call at all. Raises InvariantBroken, or what should never be raised."""
    world = World(7)
    with world.invariants.open(segment_bytes=3_000):
        begin(world, case.scene)
        fault = Fault("kill" if case.kind == "power cut" else case.kind, case.call, for_ever=case.for_ever)
        if case.victim == "daemon":
            world.faults[0] = fault
        else:
            world.worker_fault = lambda: fault
        error = world.run_daemon()
        world.faults.clear()
        if case.kind == "power cut" and fault.struck:
            world.cut_power()
        check_exit(world, error)
        world.invariants.check()
        run_undisturbed(world, Counter())
    return fault.struck > 0 or (case.kind == "short" and fault.seen >= case.call)


def columns(kinds: tuple[str, ...] = KINDS) -> Iterator[Case]:
    """Every way, at call 0."""
    for scene in SCENES:
        for victim in ("daemon", "worker"):
            for kind in kinds:
                for for_ever in (False, True) if kind in {"EIO", "ENOSPC"} else (False,):
                    yield Case(victim, kind, for_ever, scene, 0)


def play(column: Case, first: int, stride: int) -> tuple[Case, int, list[str]]:
    """Every `stride`-th call of a column, from the first to the last there is: how many, and what went wrong."""
    call, played = first, 0
    problems: list[str] = []
    while True:
        case = column._replace(call=call)
        try:
            if not reached(case):
                return column, played, problems
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what was looked for
            problems.append(f"{case}: {type(error).__name__}: {error}".partition("\n")[0])
            if len(problems) > 3:
                return column, played, problems
        played += 1
        call += stride


def main() -> None:
    """For `make simulate`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stride", type=int, default=1, help="only every so-manieth call")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    arguments = parser.parse_args()
    logging.basicConfig(handlers=[logging.NullHandler()])
    began, total, failed = time.monotonic(), 0, 0
    with multiprocessing.Pool(arguments.jobs) as pool:
        waiting = [pool.apply_async(play, (column, 1, arguments.stride)) for column in columns()]
        for result in waiting:
            column, played, problems = result.get()
            total, failed = total + played, failed + len(problems)
            for problem in problems:
                print(problem, flush=True)
            print(f"{str(column).replace(' 0 ', ' n '):60} {played:6} calls", flush=True)
    print(f"{total} faults in {time.monotonic() - began:.0f} s, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
