"""Build a file of self-correction: a pure function of the journal and of the data files that it names.

Each row says where it is from, under the key `self_correction`, which training ignores: the row of the prompt, the
round with its step and its seed, and the verifier. The checkpoint of a round stands in the journal only: its name
counts attempts, and the bytes must be the same after a kill.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cli.correction.row_text import RIGHT, WRONG, judged, original, reference_of, with_answer
from events import kinds
from events.codec import Record
from events.self_correction import (
    PlannedRow,
    SelfCorrectionSettings,
    chosen_sources,
    planned_rows,
    round_seed,
    row_key,
)
from events.settings import JobSettings
from events.values import JobId

if TYPE_CHECKING:
    from gpu.data.format.example import Example

PROVENANCE = "self_correction"
"""The key of a row that says where it is from."""

Place = tuple[JobId, int]
"""A row: the job of its file, and its line."""


class DataMissing(Exception):
    """A data file that the rows are from is missing, unreadable or changed."""


class Rounds(NamedTuple):
    """What the journal says about a file."""

    rounds: Sequence[kinds.SelfCorrectionAnswered]
    settings: JobSettings
    """Those of the attempt that took the last round: how rows are read, and which are held out."""


class Built(NamedTuple):
    """A file, and the number of its rows by their kind."""

    data: bytes
    rows: int
    references: int
    replayed: int


def find_rounds(records: Iterable[Record], started: kinds.SelfCorrectionFileStarted) -> Rounds:
    """The rounds that a file is made of."""
    rounds, last = list[kinds.SelfCorrectionAnswered](), None
    settings: JobSettings | None = None
    for record in records:
        event = record.event
        if isinstance(event, kinds.AttemptStarted):
            last = event.settings
        elif isinstance(event, kinds.SelfCorrectionAnswered):
            if started.first_round <= event.round <= started.last_round:
                rounds.append(event)
                settings = last
            if event.round >= started.last_round:
                break
    assert settings is not None  # the intent follows its rounds, and each follows the start of its attempt
    return Rounds(rounds, settings)


def build_file(data: Path, started: kinds.SelfCorrectionFileStarted, found: Rounds, validation: Path | None) -> Built:
    """The file. `data`: the directory of data files; `validation`: the validation set. Raises DataMissing."""
    settings, chat = started.settings, found.rounds[-1].chat
    planned = planned_rows(settings, [(each.round, each.prompts) for each in found.rounds])
    by_number = {each.round: each for each in found.rounds}
    prompts = dict.fromkeys((each.job, each.line) for answered in found.rounds for each in answered.prompts)
    gold = round(len(planned) * settings.gold_share / (1 - settings.gold_share))
    seed = round_seed(settings.seed, -started.number)  # another one than those of rounds
    sources = chosen_sources(seed, started.replay)
    examples, candidates = _read(data, found.settings, validation, set(prompts), sources, seed, gold)

    lines = [
        _line(_row(each, examples[each.job, each.line], settings, chat=chat), _provenance(each, by_number, settings))
        for each in planned
        if (each.job, each.line) in examples
    ]
    trained_as_they_are = {(each.job, each.line) for each in planned if each.kind == "reference"}
    references = [place for place in prompts if place in examples and place not in trained_as_they_are][: -(-gold // 2)]
    taken = {*references, *trained_as_they_are}
    replayed = [(place, row) for place, row in candidates if place not in taken][: gold - len(references)]
    for place, example in [*((place, examples[place]) for place in references), *replayed]:
        lines.append(_line(original(example, chat=chat), {"kind": "gold", "prompt_row": _name(place)}))
    own = len(lines) - len(references) - len(replayed)
    return Built(b"".join(lines), own, len(references), len(replayed))


def _row(planned: PlannedRow, example: Example, settings: SelfCorrectionSettings, *, chat: bool) -> dict[str, Any]:
    answer = reference_of(example) if planned.answer is None else planned.answer
    match planned.kind:
        case "own":
            return with_answer(example, answer, chat=chat)
        case "reference":
            return original(example, chat=chat)
        case "wrong":
            return judged(example, answer, WRONG, settings.think_tag, chat=chat)
        case "right":
            return judged(example, answer, RIGHT, settings.think_tag, chat=chat)


def _provenance(
    planned: PlannedRow, by_number: dict[int, kinds.SelfCorrectionAnswered], settings: SelfCorrectionSettings
) -> dict[str, Any]:
    answered = by_number[planned.round]
    verifier = {"regex": f"regex:{settings.pattern}", "command": f"command:{settings.command}"}
    return {
        "kind": planned.kind,
        "prompt_row": _name((planned.job, planned.line)),
        "round": answered.round,
        "base": answered.base,
        "global_step": answered.global_step,
        "seed": answered.seed,
        "verifier": verifier.get(settings.match, settings.match),
    }


def _name(place: Place) -> str:
    return f"{place[0]}:{place[1]}"


def _line(row: dict[str, Any], provenance: dict[str, Any]) -> bytes:
    text = json.dumps({**row, PROVENANCE: provenance}, ensure_ascii=False, separators=(",", ":"))
    return text.encode(errors="replace") + b"\n"


def _read(
    data: Path,
    settings: JobSettings,
    validation: Path | None,
    prompts: set[Place],
    sources: Sequence[JobId],
    seed: int,
    gold: int,
) -> tuple[dict[Place, Example], list[tuple[Place, Example]]]:
    """The rows of the prompts, and the rows that may be replayed, the first ones first. Raises DataMissing."""
    from gpu.data.examine import quality
    from gpu.data.plan.held_out import read_validation_set
    from gpu.data.plan.selection import is_held_out

    held_out = read_validation_set(validation, settings.data).content
    examples: dict[Place, Example] = {}

    def candidates() -> Iterator[tuple[bytes, Place, Example]]:
        """Note the rows of the prompts on the way."""
        for job in dict.fromkeys([*sorted({job for job, _ in prompts}), *sources]):
            for example in examples_of(data / f"{job}.jsonl", job, settings):
                place = (job, example.line)
                if is_held_out(quality.hash_row(example).content, settings, held_out):
                    continue
                if place in prompts:
                    examples[place] = example
                if job in sources:
                    yield row_key(seed, job, example.line), place, example

    # Twice as many as are wanted: some of them are prompts, which have their own rows.
    chosen = heapq.nsmallest(max(1, 2 * gold), candidates(), key=lambda each: each[0])
    return examples, [(place, example) for _, place, example in chosen]


def examples_of(path: Path, job: JobId, settings: JobSettings) -> Iterator[Example]:
    """The rows of a data file that have a prompt and a trained answer in text. Raises DataMissing."""
    from gpu.artifacts.manifest import describe
    from gpu.data.format.example import askable
    from gpu.data.format.rows import read_rows
    from gpu.data.problems import tolerated_problems
    from gpu.data.read.source import with_own_format

    try:
        if describe(path).sha256 != job:
            raise DataMissing(f"the data file {path} has changed since it was accepted")
        tolerated = tolerated_problems(settings.checks.rows)
        for row in read_rows(path, with_own_format(path, settings.data), tolerated):
            if (example := askable(row)) is not None:
                yield example
    except OSError as error:
        raise DataMissing(f"the data file {path} cannot be read: {error.strerror}") from error
