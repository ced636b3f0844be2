"""Names of jobs, versions, checkpoints and backups, and parts of names."""

from __future__ import annotations

from contextlib import closing

import pytest

from cli.arguments.resolve import Candidate, find_job_id, matching, resolve
from cli.commands.common import read_state
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.paths import Home
from core import commands

A, B = "ab" + "0" * 62, "ab" + "1" * 62

VERSIONS = [Candidate(f"v00{number}", numbers=(number,)) for number in (1, 2)]
JOBS = [Candidate(A, "third.jsonl", (1,)), Candidate(B, "third.v2.jsonl.gz", (2,)), Candidate("c" * 64, "fourth.csv")]


@pytest.mark.parametrize(
    ("wanted", "candidates", "found"),
    [
        ("v001", VERSIONS, ["v001"]),
        ("v1", VERSIONS, ["v001"]),
        ("2", VERSIONS, ["v002"]),
        ("V2", VERSIONS, ["v002"]),
        ("v0", VERSIONS, ["v001", "v002"]),
        ("3", VERSIONS, []),
        ("", VERSIONS, []),
        ("third.jsonl", JOBS, [A]),
        ("third", JOBS, [A]),
        ("third.v2", JOBS, [B]),
        ("2", JOBS, [B]),
        ("thi", JOBS, [A, B]),
        ("ab1", JOBS, [B]),
        ("AB0", JOBS, [A]),
        ("four", JOBS, ["c" * 64]),
        ("fifth", JOBS, []),
    ],
)
def test_the_first_form_that_matches_decides(wanted: str, candidates: list[Candidate], found: list[str]) -> None:
    """The id, the name, the stem, the number, a prefix."""
    assert [each.id for each in matching(wanted, candidates)] == found


def test_an_ambiguous_name_lists_the_candidates_and_an_unknown_one_the_closest() -> None:
    """Both say how to list everything."""
    with pytest.raises(UserError, match=r"thi names 2 jobs: third.jsonl \(ab0+\), third.v2.jsonl.gz") as several:
        resolve("thi", JOBS, what="job", advice="`keepstep queue`")
    assert "keepstep queue" in several.value.advice
    with pytest.raises(UserError, match="there is no job thrid") as unknown:
        resolve("thrid", JOBS, what="job", advice="`keepstep queue`")
    assert "did you mean third.jsonl" in unknown.value.advice


def test_a_thing_with_two_names_is_one_thing() -> None:
    """A file that arrived again under another name."""
    assert resolve("no", [Candidate(A, "notes.jsonl"), Candidate(A, "now.jsonl")], what="job", advice="") == A


def test_a_waiting_job_is_found_by_name_stem_place_or_first_digits(home: Home) -> None:
    """A name comes before digits."""
    with closing(EventStore.open(home)) as store:
        for job, name in ((A, "same.jsonl"), (B, "same.jsonl"), ("c" * 64, "ab")):
            store.execute(commands.AddFile(job=job, name=name, size_bytes=1, priority="normal", known=False))
    state = read_state(home)
    assert find_job_id(state, A) == A
    assert find_job_id(state, "ab1") == B
    assert find_job_id(state, "ab") == "c" * 64
    assert find_job_id(state, "2") == B
    for text in ("same.jsonl", "same"):
        with pytest.raises(UserError, match="names 2 unfinished jobs"):
            find_job_id(state, text)
    with pytest.raises(UserError, match="no unfinished job"):
        find_job_id(state, "d")
