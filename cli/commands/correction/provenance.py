"""Where a row of a file of self-correction is from: its prompt, the weights that answered, and the verdict."""

from __future__ import annotations

import json
from typing import Any

from cli.correction.build import PROVENANCE
from cli.home.paths import Home
from cli.home.snapshot_reader import read_correction, read_records
from events import kinds


def read_provenance(home: Home, job: str, line: int) -> dict[str, Any] | None:
    """What the row says about itself, with the checkpoint of its round; None: self-correction did not make the row.

    Raises OSError, journal.errors.JournalError.
    """
    if job not in {each.job for each in read_correction(home).files}:
        return None
    lines = home.data_file(job).read_bytes().splitlines()
    found = json.loads(lines[line - 1]).get(PROVENANCE) if line <= len(lines) else None
    if not isinstance(found, dict):
        return None
    rounds = {each.round: each for each in read_correction(home).rounds}
    answered = rounds.get(found.get("round", 0))
    return found | ({} if answered is None else {"checkpoint": answered.checkpoint})


def provenance_text(home: Home, found: dict[str, Any]) -> str:
    """The same in a sentence."""
    job, _, line = str(found["prompt_row"]).partition(":")
    names = {
        each.event.job: each.event.name for each in read_records(home) if isinstance(each.event, kinds.FileEnqueued)
    }
    source = f"{names.get(job, job[:12])}:{line}"
    if found["kind"] == "gold":
        return f"self-correction copied it from {source}"
    what = {
        "own": "a right own answer to",
        "reference": "the reference answer to",
        "wrong": "a wrong own answer, shown and judged, to",
        "right": "a right answer, shown and judged, to",
    }[found["kind"]]
    base, checkpoint = found.get("base") or "the first base", found.get("checkpoint")
    weights = f"{base}, last commit {checkpoint}" if checkpoint else base
    return (
        f"self-correction made it: {what} {source}, in round {found['round']} after step {found['global_step']} "
        f"({weights}; seed {found['seed']}, verifier {found['verifier']})"
    )
