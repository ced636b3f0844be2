"""What a soak has shown, in words, for a terminal and for `docs/explanation/supervision.md`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from events import kinds
from tests.crash.homes import state_of
from tests.drills.soak.course import Course
from tests.drills.soak.leaks import DESCRIPTORS, Judged
from tests.drills.soak.verdict import Verdict, marks, steps_reached

PAGE = Path(__file__).parents[3] / "docs" / "explanation" / "supervision.md"
BEGIN, END = "<!-- soak -->\n", "<!-- /soak -->"
MIB = 2**20


def page_text(course: Course, verdict: Verdict, seed: int) -> str:
    """The whole, as Markdown."""
    return "\n".join([*_prose(course, verdict, seed), "", *_faults(course), "", *_lives(verdict.lives), ""])


def _prose(course: Course, verdict: Verdict, seed: int) -> list[str]:
    life, account, calm, again = course.life, verdict.account, verdict.calm, verdict.journaled
    splits, aside = marks(course)
    steps = state_of(life.home).head.global_step
    extent = (
        "all of them, to the head" if calm.whole else f"the first {calm.steps}, before anything was cut or left out"
    )
    lines = [
        f"`make soak MINUTES={course.seconds / 60:.0f} SEED={seed}`: {course.times.total()} faults in "
        f"{course.took_s / 60:.0f} minutes, one every {course.took_s / max(1, course.times.total()):.1f} s.",
        "",
        f"- {account.jobs} files trained, {steps} steps committed ({steps_reached(course)} run), "
        f"{life.count(kinds.VersionPublished)} versions made. {life.restarts} times a daemon was started again, "
        f"{life.count(kinds.AttemptFailed)} attempts failed, {life.count(kinds.AttemptInterrupted)} were interrupted; "
        f"{life.resumed} times somebody had to say `resume`, {life.retried} times `retry`.",
        f"- {account.examples} examples, trained {account.trained} times, {account.skipped} times skipped with "
        f"their batch ({aside} batches): each exactly as often as it should be, wrong are {len(account.wrong)}.",
        f"- Compared with a home that trained the same and was left alone: {extent}, and {calm.versions} versions; "
        f"differing {len(calm.wrong)}.",
        f"- Run once more from the journal, with {splits} splits and {aside} batches skipped: {again.steps} steps, "
        f"what went into {again.versions} versions, and the head; differing {len(again.wrong)}.",
        f"- `journal verify` is clean, doctor says: {verdict.doctor}",
    ]
    return lines + [f"- **WRONG**: {each}" for each in verdict.wrong]


def _faults(course: Course) -> list[str]:
    rows = ["| fault | times | noticed as | after at most |", "| --- | --- | --- | --- |"]
    for name in sorted(course.times.keys() | course.missed.keys(), key=lambda name: -course.times[name]):
        if not course.times[name]:
            continue
        noticed = course.noticed.get(name)
        words = ", ".join(f"`{word}` {count}" for word, count in noticed.most_common()) if noticed else "–"
        after = f"{course.longest_s[name]:.1f} s" if name in course.longest_s else "–"
        rows.append(f"| {name} | {course.times[name]} | {words} | {after} |")
    return rows


def _lives(lives: Sequence[Judged]) -> list[str]:
    rows = [
        "| process | lives that were judged | the longest | memory, second → last quarter, the most that one grew | "
        "descriptors, the same |",
        "| --- | --- | --- | --- | --- |",
    ]
    for role in dict.fromkeys(each.role for each in lives):
        mine = [each for each in lives if each.role == role]
        second, last = (median(getattr(each.memory, at) for each in mine) / MIB for at in ("second", "last"))
        grew = max(each.memory.last - each.memory.second for each in mine) / MIB
        open_second, open_last = (median(getattr(each.descriptors, at) for each in mine) for at in ("second", "last"))
        more = max(each.descriptors.last - each.descriptors.second for each in mine)
        rows.append(
            f"| {role} | {len(mine)} | {max(each.seconds for each in mine):.0f} s | {second:.0f} → {last:.0f} MiB, "
            f"{grew:+.1f} | {open_second:.0f} → {open_last:.0f}, {more:+.0f} of {DESCRIPTORS} allowed |"
        )
    return rows


def write(text: str, page: Path = PAGE) -> None:
    """Between its marks."""
    head, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(head + BEGIN + text + END + rest.partition(END)[2], encoding="utf-8")
