"""What a soak has shown, held against everything that it must show."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from cli.home.paths import Home
from events import kinds
from events.kinds import BatchSkipped, MicrobatchSplit
from projections.status import read_status
from tests.crash.checks import check, check_given
from tests.crash.homes import KEEPSTEP, log_of, state_of
from tests.drills.soak import leaks
from tests.drills.soak.course import Course, unexplained
from tests.drills.soak.examples import Account, account, jobs_of
from tests.drills.soak.weights import Compared, same_as_calm, same_as_journaled


class Verdict(NamedTuple):
    """Everything that was measured, and what is wrong: nothing, if all is well."""

    account: Account
    calm: Compared
    journaled: Compared
    lives: list[leaks.Judged]
    doctor: str
    wrong: list[str]


def judge(course: Course, root: Path, say: Callable[[str], None]) -> Verdict:
    """Of a soak that has come to its end. `root` is for the calm home. Raises AssertionError where a check of
    `tests/crash` does not hold."""
    life = course.life
    home, events = life.home, life.look()
    check(home)
    check_given(life)
    wrong = [f"not noticed: {each}" for each in course.unnoticed]
    wrong += [f"no fault explains {each}" for each in unexplained(events, course.windows)]
    verified = command(home, "journal", "verify")
    wrong += [] if verified.returncode == 0 else [f"journal verify: {verified.stdout}{verified.stderr}"]
    doctor = command(home, "doctor", "--deep")
    wrong += [] if doctor.returncode == 0 else [f"doctor: {doctor.stdout}"]
    wrong += status_problems(home)
    say("how often each example was trained")
    trained = account(jobs_of(home, events))
    with ThreadPoolExecutor(1) as next_to:  # either waits for other processes, most of the time
        waited = next_to.submit(same_as_calm, home, events, root, say)
        journaled = same_as_journaled(home, say)
        calm = waited.result()
    proved = command(home, "lineage", "--prove") if state_of(home).head.checkpoint is not None else None
    wrong += [proved.stdout] if proved is not None and proved.returncode != 0 else []
    lives = leaks.judged(course.watch.lives)
    wrong += [f"it leaks: {each}" for each in lives if not each.holds and each.seconds >= leaks.LEAST_S]
    return Verdict(
        account=trained,
        calm=calm,
        journaled=journaled,
        lives=lives,
        doctor=doctor.stdout.splitlines()[-1] if doctor.stdout else "",
        wrong=[*wrong, *trained.wrong, *(f"calm: {each}" for each in calm.wrong), *journaled.wrong],
    )


def command(home: Home, *words: str) -> subprocess.CompletedProcess[str]:
    """What a command of keepstep's says."""
    return subprocess.run(
        [*KEEPSTEP, *words, "--home", str(home.root)], capture_output=True, text=True, check=False, timeout=1200
    )


def status_problems(home: Home) -> list[str]:
    """Where status.json does not say what the journal does."""
    view, state = read_status(home.status), state_of(home)
    if view is None:
        return [f"there is no status file\n{log_of(home)}"]
    said = (view.global_step, view.counts, view.queue.waiting, view.checkpoint.id if view.checkpoint else None)
    true = (
        state.head.global_step,
        state.outcomes.counts,
        len(state.queue),
        state.head.checkpoint.id if state.head.checkpoint else None,
    )
    return [] if said == true else [f"status.json says {said}, the journal {true}"]


def marks(course: Course) -> tuple[int, int]:
    """How many steps were cut in parts, and how many batches skipped."""
    life = course.life
    return life.count(MicrobatchSplit), life.count(BatchSkipped)


def steps_reached(course: Course) -> int:
    """Those that were run again too."""
    return course.life.count(kinds.StepReached)
