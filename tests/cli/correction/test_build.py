"""The file of self-correction follows from the journal and the data alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from cli.correction.build import PROVENANCE, Built, DataMissing, Rounds, build_file, find_rounds
from events import kinds
from events.codec import Record
from events.self_correction import AnsweredPrompt, OwnAnswer, SelfCorrectionSettings
from events.settings import DataSettings, JobSettings, ModelSettings

JOB = JobSettings(model=ModelSettings(path="model"))


def add(data: Path, start: int, count: int) -> str:
    """A data file of questions."""
    data.mkdir(exist_ok=True)
    made = [{"prompt": f"{number}+1=", "completion": str(number + 1)} for number in range(start, start + count)]
    content = "".join(json.dumps(row) + "\n" for row in made).encode()
    job = hashlib.sha256(content).hexdigest()
    (data / f"{job}.jsonl").write_bytes(content)
    return job


def prompt(job: str, line: int, *answers: tuple[str, bool]) -> AnsweredPrompt:
    return AnsweredPrompt(
        job=job, line=line, answers=tuple(OwnAnswer(text=text, right=right) for text, right in answers)
    )


def answered(number: int, prompts: tuple[AnsweredPrompt, ...], **changes: Any) -> kinds.SelfCorrectionAnswered:
    fields: dict[str, Any] = {
        "job": "ab" * 32,
        "attempt": 3,
        "round": number,
        "global_step": 10 * number,
        "step": number,
        "base": "v001",
        "checkpoint": "step-00000009-attempt-0002",
        "seed": 7 * number,
        "settings": SelfCorrectionSettings(kind="rejection"),
        "prompts": prompts,
        "chat": True,
        "rows": 1,
        "answers": 4,
        "right": 1,
        "distinct": 0.5,
        "mean_tokens": 1.0,
        "kl": None,
        "tokens": 4,
        "seconds": 1.0,
        **changes,
    }
    return kinds.SelfCorrectionAnswered(**fields)


def started(sources: tuple[str, ...], **settings: Any) -> kinds.SelfCorrectionFileStarted:
    return kinds.SelfCorrectionFileStarted(
        number=1,
        name="self-correction-0001.jsonl",
        first_round=1,
        last_round=2,
        base="v001",
        settings=SelfCorrectionSettings(**{"kind": "rejection", **settings}),
        replay=sources,
    )


def made(data: Path, intent: kinds.SelfCorrectionFileStarted, rounds: list[Any], job: JobSettings = JOB) -> Built:
    return build_file(data, intent, Rounds(rounds, job), None)


def rows_of(built: Built) -> list[dict[str, Any]]:
    return [json.loads(line) for line in built.data.splitlines()]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_right_own_answers_are_trained_or_else_the_reference(data: Path) -> None:
    """No row twice, at most `answers` for a prompt, and each says where it is from."""
    job = add(data, 0, 30)
    rounds = [
        answered(1, (prompt(job, 1, ("1", True), ("one", True), ("7", False)), prompt(job, 2, ("9", False)))),
        answered(2, (prompt(job, 1, ("1", True), ("1.", True), ("1!", True)),)),
    ]
    built = made(data, started((job,), gold_share=0.0, answers=3), rounds)
    rows = rows_of(built)
    answers = [(row["messages"][0]["content"], row["messages"][1]["content"]) for row in rows]
    assert answers == [("0+1=", "1"), ("0+1=", "one"), ("1+1=", "2"), ("0+1=", "1.")]
    assert (built.rows, built.references, built.replayed) == (4, 0, 0)
    assert rows[-1][PROVENANCE] == {
        "kind": "own",
        "prompt_row": f"{job}:1",
        "round": 2,
        "base": "v001",
        "global_step": 20,
        "seed": 14,
        "verifier": "normalized",
    }


def test_reflection_shows_as_many_right_answers_as_wrong_ones(data: Path) -> None:
    """Where right ones are missing, references stand in; a wrong answer is never what is trained."""
    job = add(data, 0, 30)
    rounds = [answered(1, (prompt(job, 1, ("7", False), ("8", False)), prompt(job, 2, ("2", True), ("5", False))))]
    rows = rows_of(made(data, started((job,), kind="reflect", gold_share=0.0), rounds))
    kinds_made = [row[PROVENANCE]["kind"] for row in rows]
    assert kinds_made == ["wrong", "right"] * 3
    for row in rows:
        shown, said = row["messages"][1], row["messages"][-1]["content"]
        assert shown["train"] is False
        is_wrong = row[PROVENANCE]["kind"] == "wrong"
        assert said.startswith("incorrect\n\n" if is_wrong else "correct")
        assert (shown["content"] in {"7", "8", "5"}) == is_wrong
        assert not is_wrong or said.split()[-1] == row["messages"][0]["content"][0].translate({48: "1", 49: "2"})


def test_gold_rows_are_as_many_as_wanted_and_never_held_out(data: Path) -> None:
    """Half of them answer the same prompts, the others are rows of trained files."""
    asked, other = add(data, 0, 40), add(data, 100, 60)
    prompts = tuple(prompt(asked, line, ("x", True), ("y", True)) for line in range(1, 11))
    for share, gold in ((0.5, 20), (0.25, 7)):
        built = made(data, started((asked, other), gold_share=share), [answered(1, prompts)])
        assert built.rows == 20
        assert built.references + built.replayed == gold
        assert built.references == -(-gold // 2)
        gold_rows = [row[PROVENANCE]["prompt_row"] for row in rows_of(built) if row[PROVENANCE]["kind"] == "gold"]
        assert len(set(gold_rows)) == gold
    held = JobSettings(model=ModelSettings(path="model"), data=DataSettings(holdout=0.5))
    held_out = made(data, started((asked, other)), [answered(1, prompts)], held)
    from gpu.data.examine import quality
    from gpu.data.format.rows import read_rows

    content = {
        f"{job}:{row.line}": quality.hash_row(row).content
        for job in (asked, other)
        for row in read_rows(data / f"{job}.jsonl", DataSettings())
    }
    assert 0 < held_out.rows < 20
    assert not any(quality.is_in_holdout(content[row[PROVENANCE]["prompt_row"]], 0.5) for row in rows_of(held_out))


def test_the_same_journal_and_data_give_the_same_bytes(data: Path) -> None:
    """However often it is made; another seed gives other gold rows."""
    asked, other = add(data, 0, 40), add(data, 100, 60)
    rounds = [answered(1, tuple(prompt(asked, line, ("x", True)) for line in range(1, 11)))]
    first = made(data, started((asked, other)), rounds)
    assert made(data, started((asked, other)), rounds) == first
    assert made(data, started((asked, other), seed=1), rounds).data != first.data


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_file_that_is_missing_or_changed_is_named(data: Path, damage: str) -> None:
    """Rows of other bytes than those that were answered are never written."""
    job = add(data, 0, 30)
    path = data / f"{job}.jsonl"
    path.unlink() if damage == "missing" else path.write_bytes(b"{}\n")
    with pytest.raises(DataMissing, match=job):
        made(data, started((job,)), [answered(1, (prompt(job, 1, ("1", True)),))])


def test_the_rounds_of_a_file_are_found_with_the_settings_of_their_attempt() -> None:
    """How rows are read, and which are held out, is as when they were asked."""
    later = JobSettings(model=ModelSettings(path="model"), data=DataSettings(holdout=0.1))
    events = [
        kinds.AttemptStarted(job="ab" * 32, attempt=1, settings=JOB),
        answered(1, ()),
        kinds.AttemptStarted(job="ab" * 32, attempt=2, settings=later),
        answered(2, ()),
        answered(3, ()),
    ]
    records = [Record(seq, "2026-01-01T00:00:00Z", 0, "", event, "") for seq, event in enumerate(events, start=1)]
    found = find_rounds(iter(records), started(()))
    assert [each.round for each in found.rounds] == [1, 2]
    assert found.settings == later
