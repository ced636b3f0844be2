"""One seed: one home, several runs of its daemon, and trouble. The invariants of `invariants.py` must hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from cli.errors import STORAGE_FAILED, UserError, exit_code_of
from core import commands
from core.errors import Refused
from journal.durable import write_atomically
from journal.errors import JournalDamaged
from tests.harness.fake_disk import Killed, PowerCut
from tests.harness.fake_disk_nodes import File
from tests.simulation.fault import Fault
from tests.simulation.invariants import InvariantBroken, Rotted, require
from tests.simulation.world import ROOT, World

UNDISTURBED_RUNS = 12
"""Enough for every file: each life continues until nothing is left, and only a person's word can be needed between."""


class Outcome(NamedTuple):
    """What one seed came to."""

    counts: Counter[str]
    """What happened, by name."""


def run_seed(seed: int, note: Callable[[str], None] = lambda _: None) -> Outcome:
    """Play the seed. Raises InvariantBroken, or whatever the product should not have raised."""
    world = World(seed, note=note)
    counts: Counter[str] = Counter()
    with world.invariants.open(segment_bytes=world.random.choice([2_000, 10_000, 64 << 20])):
        _make_home(world, counts)
        if _trouble(world, counts):
            run_undisturbed(world, counts)
    counts.update(world.invariants.counts)
    return Outcome(counts)


def _make_home(world: World, counts: Counter[str]) -> None:
    """`init`, sometimes killed; again, it is whole."""
    while True:
        if world.random.random() < 0.15:
            world.cut_at = world.calls + world.random.randint(1, 60)
        try:
            world.lay_out()
        except PowerCut:
            counts["power cut"] += 1
            world.cut_power()
            world.invariants.doubtful.clear()
            continue
        world.cut_at = None
        if world.random.random() < 0.2:
            world.cut_power()  # what init said it made, it made
        break
    drops = world.disk.process("user")
    for _ in range(world.random.randint(1, 3)):
        world.drop(drops)


def _trouble(world: World, counts: Counter[str]) -> bool:
    """Some lives under fire; False if the journal was rightly found damaged, which ends the story."""
    random, invariants = world.random, world.invariants
    for number in range(random.randint(1, 4)):
        invariants.excuses.clear()
        _arm(world)
        world.note(f"life {number + 1}")
        error = world.run_daemon()
        world.note(f"  it ended: {error!r}")
        was_full = world.full_at is not None and world.full_at <= world.calls
        world.cut_at = world.full_at = None
        world.disk.capacity = None
        world.faults.clear()
        if isinstance(error, PowerCut):
            counts["power cut"] += 1
            world.cut_power()
        elif isinstance(error, Killed):
            counts["kill"] += 1
        elif isinstance(error, JournalDamaged) and _journal_is_rotten(world):
            counts["damage refused"] += 1
            return False
        else:
            check_exit(world, error, was_full=was_full)
        for _ in range(3 if world.keen else 0):
            world.user.act()  # while no daemon runs
        if random.random() < 0.15:
            counts["power cut"] += 1
            world.note("  the power goes while nothing runs")
            world.cut_power()
        try:
            invariants.check()
        except Rotted:
            counts["damage refused"] += 1
            return False
        if random.random() < 0.12:
            _rot(world, counts)
    return True


def _arm(world: World) -> None:
    """Choose what is to happen in the next life."""
    random = world.random
    moment = int(2 ** random.uniform(2, 10))
    what = random.choice(["cut", "cut", "cut", "kill", "kill", "daemon", "daemon", "worker", "full", "nothing"])
    only = random.choice(["", "", "fsync", "fsync", "write", "rename", "read", "unlink", "create"])
    if only:
        moment = max(1, moment // 8)
    kind, for_ever = random.choice(["EIO", "EIO", "ENOSPC", "short"]), random.random() < 0.3
    if what == "cut":
        world.cut_at = world.calls + moment
    elif what == "kill":
        world.faults[0] = Fault("kill", moment)
    elif what == "daemon":
        world.faults[0] = Fault(kind, moment, for_ever=for_ever and kind == "EIO", only=only)
    elif what == "full":
        world.full_at = world.calls + moment
    if what == "worker" or random.random() < 0.3:
        struck: list[Fault] = []

        def fault() -> Fault | None:
            if len(struck) >= 2:  # a worker that always dies is another story than a disk that does
                return None
            how = random.choice(["kill", "kill", "EIO", "ENOSPC", "short"])
            struck.append(Fault(how, random.randint(1, 60), only=random.choice(["", "", "fsync", "write", "rename"])))
            return struck[-1]

        world.worker_fault = fault
    else:
        world.worker_fault = lambda: None
    world.note(f"armed: {what} {world.cut_at} {world.full_at} {world.faults.get(0)}")


def check_exit(world: World, error: BaseException | None, *, was_full: bool = False) -> None:
    """Raise what a daemon must not end with, after what was done to it."""
    if error is None or isinstance(error, Killed | PowerCut):
        return
    excuses = world.invariants.excuses
    if exit_code_of(error) == STORAGE_FAILED and (was_full or excuses & {"EIO", "ENOSPC"}):
        return
    if isinstance(error, UserError) and error.exit_code != STORAGE_FAILED:  # it waits for a person
        return
    if isinstance(error, OSError) and "EIO" in excuses and exit_code_of(error) is not None:
        return
    raise error


def _journal_is_rotten(world: World) -> bool:
    return any(path.startswith(str(ROOT / "journal")) for path in world.invariants.rotten)


def _rot(world: World, counts: Counter[str]) -> None:
    """A bit flips in something that lies there."""
    inspector = world.inspector()
    paths = []
    for top in ("journal", "checkpoints", "status", "data", "versions", "backups"):
        below = [ROOT / top]
        while below:
            path = below.pop()
            node = world.disk.find(str(path))
            if isinstance(node, File):
                if node.data and (top == "status" or not node.dirty) and path.name not in {"reserve", "lock"}:
                    paths.append(path)
            else:
                below += [path / name for name in sorted(inspector.names(path))]
    if paths:
        path = world.random.choice(paths)
        world.note(f"  rot in {path}")
        counts["bit rot"] += 1
        for name in paths:  # a power cut within a rename may have left one file under two names
            if world.disk.find(str(name)) is world.disk.find(str(path)):
                world.invariants.rotten.add(str(name))
                world.copies.setdefault(str(name), world.read(name))
        world.disk.rot(path)


def run_undisturbed(world: World, counts: Counter[str]) -> None:
    """No more trouble: what is accepted is trained, with no more help than a person's word."""
    world.hostile = False
    world.worker_fault = lambda: None
    world.invariants.excuses.clear()
    for _ in range(UNDISTURBED_RUNS):
        world.note("a calm life")
        error = world.run_daemon()
        world.note(f"  it ended: {error!r}")
        try:
            check_exit(world, error)
            state, _ = world.invariants.check()
        except (JournalDamaged, Rotted):
            # found at once, or, where a snapshot stands after the place, by anyone who reads the journal whole
            if not _journal_is_rotten(world):
                raise
            counts["damage refused"] += 1
            return
        counts["quarantined"] += len(state.recovery.quarantined)
        if _advice(world):
            continue
        world.invariants.check_end()
        counts["trained"] += state.head.global_step
        return
    raise InvariantBroken("the daemon does not come to an end by itself")


def _advice(world: World) -> bool:
    """What a person does about a home that waits; False if there is nothing to do."""
    asked = False
    process = world.disk.process("person")
    with world.store(process) as store:
        hold = store.state.daemon.hold
        for path in sorted(world.invariants.rotten):  # told which file is not what it was, a person puts a copy back
            if hold is not None and Path(path).parts[3] in hold.reason and process.exists(Path(path).parent):
                write_atomically(Path(path), world.copies[path], sync=True, storage=process)
                world.invariants.rotten.discard(path)
        for data in (*world.contents, *world.copies.values()):  # it may have been half a file when it was accepted
            file = ROOT / "data" / f"{sha256(data).hexdigest()}.jsonl"
            if hold is not None and file.name in hold.reason and not process.exists(file):
                write_atomically(file, data, sync=True, storage=process)
        for job in [job.id for job in store.state.queue if job.status == "held"]:
            store.execute(commands.ReleaseJob(job=job))
            asked = True
        for job, _ in list(store.state.outcomes.failed.items()):
            store.execute(commands.Retry(job=job))
            asked = True
        with suppress(Refused):
            store.execute(commands.Resume())
            asked = True
        require(store.state.daemon.hold is None, "resuming ends a hold")
    return asked
