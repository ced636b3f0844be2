"""Find what a user names: a job, a version, a backup or a checkpoint, by its name or by a part of it.

The forms are tried in this order, and the first one that matches anything decides:

    the id            v001, step-00000003-attempt-0001, a SHA-256
    the name          third.jsonl
    the file stem     third, for third.jsonl and then for third.jsonl.gz
    the number        1 or v1 for v001, 3 for the checkpoint of step 3, the place of a job in the queue
    a prefix          of the id or of the name
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

from cli.errors import UserError
from cli.text import printable, shown_text

if TYPE_CHECKING:
    from core.state import State
    from events.codec import Record

CANDIDATES_SHOWN = 6
"""Candidates in the message about an ambiguous name."""

ID_SHOWN = 12
"""Digits of a SHA-256 in messages."""

ORIGIN = "origin"
"""The name of the first base of the home, in commands."""


class Candidate(NamedTuple):
    """Something that can be named."""

    id: str
    name: str = ""
    """The name of its file; "": it has none."""
    numbers: Sequence[int] = ()

    @property
    def label(self) -> str:
        """Its name in messages."""
        return f"{printable(self.name)} ({self.id[:ID_SHOWN]})" if self.name else self.id


def resolve(wanted: str, candidates: Iterable[Candidate], *, what: str, advice: str) -> str:
    """The id of the one candidate that `wanted` names.

    `what`: the kind of thing, singular. `advice`: the command that lists them. Raises UserError, with the candidates if
    several match, and with the closest name if none does.
    """
    found = list(dict.fromkeys(candidates))
    matches = matching(wanted, found)
    if len({each.id for each in matches}) == 1:
        return matches[0].id
    if matches:
        labels = [each.label for each in matches[:CANDIDATES_SHOWN]]
        more = f" and {len(matches) - len(labels)} more" if len(matches) > len(labels) else ""
        raise UserError(
            f"{shown_text(wanted)} names {len(matches)} {what}s: {', '.join(labels)}{more}", f"name one: {advice}"
        )
    nearest = closest(wanted, found)
    if nearest is not None:
        raise UserError(f"there is no {what} {shown_text(wanted)}", f"did you mean {nearest}? {advice}")
    raise UserError(f"there is no {what} {shown_text(wanted)}", advice)


def matching(wanted: str, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that `wanted` names, by the first form that matches any."""
    text = shown_text(wanted)
    lower = text.lower()
    number = int(digits) if (digits := lower.removeprefix("v")).isdecimal() and len(digits) < ID_SHOWN else None
    forms = (
        lambda each: each.id == text,
        lambda each: each.name == text,
        lambda each: text in stems(each.name)[:1],
        lambda each: text in stems(each.name),
        lambda each: number is not None and number in each.numbers,
        lambda each: each.id.startswith(lower) or each.name.startswith(text),
    )
    if not text:
        return []
    return next((found for form in forms if (found := [each for each in candidates if form(each)])), [])


def stems(name: str) -> list[str]:
    """The name of a file without its last ending, then without the one before, and so on.

    >>> stems("notes.v2.jsonl.gz")
    ['notes.v2.jsonl', 'notes.v2', 'notes']
    """
    path, found = PurePath(name), list[str]()
    while path.suffix:
        path = path.with_suffix("")
        found.append(str(path))
    return found


def closest(wanted: str, candidates: Sequence[Candidate]) -> str | None:
    """The label of the candidate whose name is most like `wanted`; None: none is."""
    import difflib

    labels = dict[str, str]()
    for each in candidates:
        for text in filter(None, (each.id, each.name, *stems(each.name))):
            labels.setdefault(text, each.label)
    near = difflib.get_close_matches(shown_text(wanted), labels, n=1)
    return labels[near[0]] if near else None


# -- what can be named ----------------------------------------------------------------------------------------------


def jobs(state: State) -> list[Candidate]:
    """The unfinished jobs; a waiting one has its place in the queue as its number."""
    return [
        *(Candidate(job.id, job.name) for job in state.training.in_progress),
        *(Candidate(job.id, job.name, (place,)) for place, job in enumerate(state.queue, 1)),
        *(Candidate(job.id, job.name) for job in state.outcomes.failed.values()),
    ]


def versions(state: State) -> list[Candidate]:
    """The versions that exist, with their numbers."""
    return [Candidate(each.id, numbers=(int(each.id[1:]),)) for each in state.retention.versions]


def held_versions(state: State) -> list[Candidate]:
    """The versions that wait for a decision."""
    return [each for each in versions(state) if state.evaluations.hold_of(each.id) is not None]


def models(state: State) -> list[Candidate]:
    """The models that a user talks to, but for checkpoints: the head, the base, the origin, and every version."""
    found = versions(state)
    names = ["head", "base", ORIGIN, *(["latest"] if found else [])]
    return [*map(Candidate, names), *found]


def versions_and_origin(state: State) -> list[Candidate]:
    """The versions that exist, and the first base."""
    return [Candidate(ORIGIN), *versions(state)]


def checkpoints(state: State) -> list[Candidate]:
    """The checkpoints of the current branch, with their steps."""
    return [Candidate(each.id, numbers=(each.global_step,)) for each in state.head.checkpoints]


def detached(state: State) -> list[Candidate]:
    """The checkpoints that the head has moved away from, with their steps."""
    kept = (each.checkpoint for each in state.head.detached)
    return [Candidate(each.id, numbers=(each.global_step,)) for each in kept]


def backups(state: State) -> list[Candidate]:
    """The backups; the number at the end of the name is its number."""
    return [Candidate(each.id, numbers=(int(each.id.rpartition("-")[2]),)) for each in state.retention.backups]


def arrived(records: Iterable[Record]) -> Iterator[Candidate]:
    """Every file that ever arrived; a file that arrived again under another name has both."""
    from events import kinds

    for record in records:
        if isinstance(record.event, kinds.FileEnqueued | kinds.FileDuplicate):
            yield Candidate(record.event.job, record.event.name)


def find_job_id(state: State, wanted: str) -> str:
    """The id of an unfinished job. Raises UserError."""
    return resolve(
        wanted,
        jobs(state),
        what="unfinished job",
        advice="`keepstep queue` lists the jobs; `keepstep explain` also knows finished ones",
    )


def find_version_id(state: State, wanted: str, *, origin: bool = False) -> str:
    """The id of a version, or `origin` if that is allowed. Raises UserError."""
    return resolve(
        wanted,
        (versions_and_origin if origin else versions)(state),
        what="version",
        advice="`keepstep versions list --all` lists the versions",
    )


def find_checkpoint_id(state: State, wanted: str) -> str:
    """The id of a checkpoint of the current branch. Raises UserError."""
    return resolve(wanted, checkpoints(state), what="checkpoint", advice="`keepstep checkpoints` lists the checkpoints")


def find_backup_id(state: State, wanted: str) -> str:
    """The id of a backup. Raises UserError."""
    return resolve(
        wanted,
        backups(state),
        what="backup",
        advice="`keepstep backup list` lists the backups",
    )
