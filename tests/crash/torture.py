"""Kill -9, again and again: the real daemon, the real worker, real training.

    python -m tests.crash.torture --kills 500 --seed 1

Two kinds of kill take turns. A **named** one is left to the process itself, at a point of `points.py` and at its n-th
time there. A **random** one comes from outside, in a phase that is chosen (a start, the seconds in which a worker
loads, training, a pause) and at a random moment of it, and hits the daemon, the worker or both. A worker that died
alone is followed by its daemon soon after, or the daemon lives on and takes the next kill.

Files come all the time, by any lane. What must hold at the end is in `checks.py`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

from events import kinds
from journal import JournalError
from journal.failpoints import WORKER
from tests.crash.checks import assert_same, calm_twin, check, check_given, records_of
from tests.crash.homes import log_of
from tests.crash.life import Life
from tests.crash.points import ALL, added_again, pausing_early, returning

__all__ = ["Torture", "calm_twin", "check", "main", "records_of"]

FILES_AHEAD = 4
"""So many are to be trained at least when a daemon starts: more than it comes to learn before it is killed."""

DEATHS_IN_A_ROW_MAX = 2
"""Of workers, without a commit between: at five, a job is abandoned, and rightly; and each is waited for twice as long
as the one before."""

NAMED_SHARE = 0.4
TRIES = 8
"""A point may be missed when a command comes between two files."""

PROGRESS_EVERY = 25
LONG_S = 45.0
"""For one kill: worth a line."""
MOMENT_S = 60.0
"""The longest wait for a moment that was chosen; then whatever is there is killed."""


class Torture:
    """A life under kills. The same seed makes the same choices; what they hit is a matter of microseconds."""

    def __init__(self, life: Life, *, loud: bool = False) -> None:
        self.life, self.choose = life, life.choose
        self.named: Counter[str] = Counter()
        self.random: Counter[str] = Counter()
        self.phases: Counter[str] = Counter()
        self.after_a_step = 0
        self.missed: list[str] = []
        self._loud = loud
        self._began = time.monotonic()
        self._said = 0

    @property
    def kills(self) -> int:
        """So far."""
        return self.named.total() + self.random.total()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def run(self, kills: int, named: Sequence[str]) -> None:
        """Kill `kills` times: at each point of `named`, else at random. Then let the life come to its end."""
        if {returning, added_again} & {each for name in named for each in ALL[name].situations}:
            self.life.more()
            self.life.to_the_end()  # only what was trained can come again
        todo = list(named)
        self.choose.shuffle(todo)
        while (left := kills - self.kills) > 0 or todo:
            began, name = time.monotonic(), "at random"
            if self.choose.random() < len(todo) / max(left, 1):
                name = todo.pop()
                self._at_point(name)
            else:
                self._at_random()
            if self._loud and time.monotonic() - began > LONG_S:
                print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
            if self._loud and self.kills >= self._said + PROGRESS_EVERY:
                self._said = self.kills - self.kills % PROGRESS_EVERY
                print(f"{self.kills} kills, {self.after_a_step} after a step, {self.seconds:.0f} s", flush=True)
        self._clear()
        self.life.to_the_end()
        self.life.waited.unlink(missing_ok=True)

    # -- named points -----------------------------------------------------------------------------------------------

    def _at_point(self, name: str) -> None:
        """Be killed there, at any time that it is passed."""
        point = ALL[name]
        most = point.most
        situations = [each for each in point.situations if not (self.life.fake and each is pausing_early)]
        for attempt in range(TRIES):
            self._clear()
            self._spare_the_job()
            self._feed()
            situation = self.choose.choice(situations)
            count = self.choose.randint(1, most)
            died = self.life.word(f"{name}-{self.kills}-{attempt}")
            environment = {"KEEPSTEP_FAILPOINT": f"{name}:{count}", "KEEPSTEP_FAILPOINT_ONCE": str(died)}
            situation(self.life, **environment)
            if self.life.process is not None:
                self.life.until(died.exists, MOMENT_S)
            if died.exists():
                self.named[name] += 1
                self._count("named")
                self._after_a_point(name)
                return
            most = max(1, most // 2)  # perhaps it is not passed so often
        self.missed.append(name)

    def _after_a_point(self, name: str) -> None:
        if self.life.process is None:
            return
        if name in WORKER:
            self._follow()
        else:
            self.life.ended()

    # -- random moments ---------------------------------------------------------------------------------------------

    def _at_random(self) -> None:
        """One kill from outside; of a daemon that lives, or of a new one."""
        life = self.life
        spared = self._deaths_in_a_row() >= DEATHS_IN_A_ROW_MAX
        if life.process is None or not life.runs() or life.paused:
            self._clear()
            self._feed()
            life.start()
            phase = self.choose.choices(["start", "loading", "training", "pause"], [1, 2, 6, 1])[0]
        else:
            phase = self.choose.choices(["loading", "training"], [1, 3])[0]
        self._await(phase)
        if not life.runs():  # it found nothing left to do
            self._clear()
            return
        victim = "daemon" if spared or phase == "start" else self.choose.choice(["daemon", "worker", "both"])
        self._count(phase)
        if victim == "daemon" or not life.kill_worker():
            self.random["daemon"] += life.kill_daemon()
        elif victim == "both":
            self.random["both"] += 1
            life.kill_daemon()
        else:
            self.random["worker"] += 1
            self._follow()

    def _await(self, phase: str) -> None:
        """The phase, and a moment of it."""
        life, choose = self.life, self.choose
        begun = sum(isinstance(event, kinds.AttemptStarted) for event in life.since_start())
        steps = sum(isinstance(event, kinds.StepReached) for event in life.since_start())
        if phase == "start":
            life.until(life.happened(kinds.DaemonStarted), MOMENT_S)
            time.sleep(choose.uniform(0.0, 0.3))
        elif phase == "loading":
            life.until(
                life.happened(kinds.AttemptStarted, begun if life.state.attempts.current else begun + 1), MOMENT_S
            )
            time.sleep(choose.uniform(0.0, 4.0))
        else:
            life.until(life.happened(kinds.StepReached, steps + choose.randint(1, 24)), MOMENT_S)
            time.sleep(choose.uniform(0.0, 0.03))
            if phase == "pause":
                word = life.spawn("pause")
                time.sleep(choose.uniform(0.1, 0.8))
                life.commands.append(word)

    def _follow(self) -> None:
        """A worker died: soon its daemon does too, or it continues."""
        if self.choose.random() < 0.5:
            time.sleep(self.choose.uniform(0.0, 0.3))
            if self.life.runs():
                self._count("a worker died")
                self.random["daemon"] += self.life.kill_daemon()

    # -- between kills ----------------------------------------------------------------------------------------------

    def _clear(self) -> None:
        """No daemon, no command, no pause."""
        life = self.life
        if life.process is not None:
            if life.runs():
                self._count("between")
            self.random["daemon"] += life.kill_daemon()
        life.finish_commands()
        if life.fake:
            life.waited.touch()
        if life.paused:
            assert life.command("resume") == 0, log_of(life.home)

    def _spare_the_job(self) -> None:
        """Before a worker dies once more: let some steps be committed, if too many died already."""
        if self._deaths_in_a_row() >= DEATHS_IN_A_ROW_MAX:
            self._feed()
            self.life.start()
            assert self.life.until(self.life.happened(kinds.CheckpointCommitted)), log_of(self.life.home)
            self._clear()

    def _deaths_in_a_row(self) -> int:
        deaths = 0
        for event in reversed(self.life.look()):
            if isinstance(event, kinds.CheckpointCommitted):
                break
            deaths += isinstance(event, kinds.AttemptFailed)
        return deaths

    def _feed(self) -> None:
        """More to learn, if little is left."""
        life = self.life
        events = life.look()
        # what was given by a command that was killed may have come or not
        left = len(life.given) - len(
            life.given.keys() & {event.job for event in events if isinstance(event, kinds.JobTrained)}
        )
        for _ in range(max(0, FILES_AHEAD - left)):
            life.more()

    def _count(self, phase: str) -> None:
        self.phases[phase] += 1
        for event in reversed(self.life.look()):
            if isinstance(event, kinds.StepReached):
                self.after_a_step += 1
                return
            if isinstance(event, kinds.AttemptStarted | kinds.DaemonStarted | kinds.JobTrained):
                return

    # -- what happened ----------------------------------------------------------------------------------------------

    def table(self) -> str:
        """For a person."""
        width = max(map(len, ALL))
        lines = [f"{name:{width}}  {self.named[name]}" for name in ALL if self.named[name]]
        spread = ", ".join(f"{name} {count}" for name, count in sorted(self.phases.items()))
        lines += [
            f"random: daemon {self.random['daemon']}, worker {self.random['worker']}, both {self.random['both']}",
            f"phases: {spread}",
            f"after the first step of an attempt: {self.after_a_step} of {self.kills}",
            f"{self.seconds:.0f} s, {60 * self.kills / self.seconds:.1f} kills a minute",
        ]
        return "\n".join(lines + [f"NOT HIT: {name}" for name in self.missed])


def named_for(kills: int, choose: Random) -> list[str]:
    """Which points `kills` leave time for: every one, as often as may be, or else some of them."""
    share = int(kills * NAMED_SHARE)
    if kills < 2 * len(ALL):
        return choose.sample(list(ALL), min(share, len(ALL)))
    return list(ALL) * max(1, share // len(ALL))


def main() -> None:
    """For `make torture`."""
    parser = argparse.ArgumentParser(description="Kill the real daemon while it trains, and compare the weights.")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--points", nargs="*", help="only these, and nothing at random")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="keepstep-torture-"))
    try:
        _torture(directory, arguments)
    except BaseException:
        print(f"everything is as it was left, in {directory}", flush=True)
        raise
    shutil.rmtree(directory)


def _torture(directory: Path, arguments: argparse.Namespace) -> None:
    choose = Random(arguments.seed)
    life = Life.real(directory / "tortured", choose)
    print(f"seed {arguments.seed}: {arguments.kills} kills", flush=True)
    torture = Torture(life, loud=True)
    if arguments.points is not None:
        torture.run(0, arguments.points or list(ALL))
    else:
        torture.run(arguments.kills, named_for(arguments.kills, choose))
    print(torture.table(), flush=True)
    check(life.home)
    check_given(life)
    trained = [record.event for record in records_of(life.home) if isinstance(record.event, kinds.JobTrained)]
    print(f"{len(trained)} files, {trained[-1].global_step} steps; now the same files without a kill", flush=True)
    assert_same(life.home, calm_twin(life, directory / "calm"))
    print("bit for bit the same: every step, the weights, the optimizer's state, the log")
    if torture.missed:
        sys.exit(f"not hit: {', '.join(torture.missed)}")


if __name__ == "__main__":
    try:
        main()
    except JournalError as error:
        sys.exit(str(error))
