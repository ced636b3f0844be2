"""What `keepstep versions list`, `show`, `diff` and `matrix` say about evaluations."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from cli.commands.models.evaluation import (
    evaluation_rows,
    file_table,
    flips,
    mark_text,
    read_results,
    show_flips,
    show_matrix,
)
from cli.home.paths import Home
from core.state import State
from core.structures.evaluations import Evaluated, Evaluations, Held, Pending
from events.evaluation import (
    EvaluationResults,
    ModelResults,
    QuestionResult,
    QuestionScore,
    ResultsFile,
    RowScore,
)
from events.kinds import AnyEvent, VersionEvaluated, VersionHeld
from projections.progress import VersionMark
from tests.events.examples import EVALUATED
from tests.projections.evaluation.test_matrix import THREE, A, chart

DONE = VersionEvaluated(attempt=5, **EVALUATED, worse="right answers fell from 9 to 4 of 10 (max_drop 0.05)")
MARK = VersionMark(questions=QuestionScore(total=10, right=4), worse=DONE.worse)


def shown(state: State, mark: VersionMark | None, *events: AnyEvent) -> list[str]:
    found = chart(*events)
    version = found.versions[0] if found.versions else None
    return [f"{row.name}: {row.text}" for row in evaluation_rows("v002", state, version, found, mark)]


@pytest.mark.parametrize(
    ("evaluations", "mark", "text"),
    [
        (Evaluations(), None, ""),
        (Evaluations(pending=(Pending("v002"),), held=(Held("v002"),)), None, "pending"),
        (Evaluations(held=(Held("v002", reason="worse"),)), MARK, "held 4/10"),
        (Evaluations(), MARK, "worse 4/10"),
        (Evaluations(), VersionMark(failed="it hung", questions=MARK.questions), "failed"),
        (Evaluations(), VersionMark(), "ok"),
        (Evaluations(), VersionMark(problem="no question"), "incomplete"),
    ],
)
def test_a_list_has_a_word_for_each_version(evaluations: Evaluations, mark: VersionMark | None, text: str) -> None:
    assert mark_text("v002", State(evaluations=evaluations), mark) == text


def test_a_version_is_shown_with_its_verdict_and_what_to_do() -> None:
    rows = shown(State(), MARK, *THREE, DONE)
    assert rows[:3] == [
        "worse: right answers fell from 9 to 4 of 10 (max_drop 0.05)",
        ": → the head has moved to it; to go back: keepstep versions restore v001",
        "questions: 4 of 10 right (v001: 9 of 10; 1 more, 6 lost) (see: keepstep versions diff v001 v002)",
    ]
    assert rows[4].endswith("its loss changed by +0.250 nats per token (95 % interval +0.125 to +0.500)")
    assert rows[5] == "moved: KL(v001 ‖ v002) 0.5000 nats per token on what is new"
    held = State(evaluations=Evaluations(held=(Held("v002", reason="it is worse"),)))
    rows = shown(held, MARK, DONE, VersionHeld(version="v002", reason="it is worse"))
    assert rows[:3] == [
        "held: the head does not move to it: it is worse",
        ": → to use it after all: keepstep versions promote v002",
        ": → to delete it, and keep what was trained: keepstep versions discard v002",
    ]
    assert "keepstep versions evaluate v002" in shown(State(), None)[0]
    assert shown(State(), VersionMark(failed="it hung"))[0] == "evaluated: no: it hung"


def test_files_are_listed_with_their_intervals() -> None:
    found = chart(DONE)
    columns, rows = file_table(found.versions[0], found)
    assert columns == ["file", "rows", "loss", "change", "95 % interval", "right tokens"]
    assert rows == [
        ["ab" * 6, "16", "1.7500", "+0.250", "+0.125 to +0.500", "62%"],
        ["cd" * 6, "1", "NaN", "", "", "0%"],
    ]


def test_the_matrix_fits_on_a_narrow_screen(capsys: pytest.CaptureFixture[str]) -> None:
    show_matrix(chart(*THREE), json=False)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["after", "a", "b" * 12, "c" * 12]
    assert lines[2].split() == ["a", "1.000"]
    assert lines[4].split() == ["c" * 12, "1.500", "1.500", "0.500"]
    assert "most forgotten     a.jsonl: +0.750 above its best loss" in lines
    show_matrix(chart(*THREE), json=True)
    assert json.loads(capsys.readouterr().out)["worst_file"] == A
    show_matrix(chart(), json=False)
    assert "no job was evaluated yet" in capsys.readouterr().out


# -- flipped questions ----------------------------------------------------------------------------------------------


def answer(number: int, text: str, *, right: bool, content: str = "ab") -> QuestionResult:
    return QuestionResult(
        id=f"q{number}", suite="sums", content=content, prompt="?", expected="4", answer=text, right=right
    )


def write(home: Home, version: str, own: ModelResults, before: ModelResults | None) -> ResultsFile:
    results = EvaluationResults(
        evaluation=f"{version}-attempt-0005",
        subject=version,
        suites_sha256="ab" * 32,
        environment={},
        results=own,
        parent_results=before,
    )
    data = msgspec.json.encode(results)
    home.evaluations.mkdir(exist_ok=True)
    (home.evaluations / f"{version}-attempt-0005.json").write_bytes(data)
    return ResultsFile(id=results.evaluation, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def evaluated(version: str, file: ResultsFile) -> State:
    return State(evaluations=Evaluations(evaluated=(Evaluated(version, file, ""),)))


def test_flipped_questions_have_both_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The parent may have been evaluated only next to its child."""
    home = Home(tmp_path)
    before = (answer(1, "5", right=False), answer(2, "4", right=True), answer(3, "4", right=True))
    after = (answer(1, "4", right=True), answer(2, "7", right=False), answer(3, "5", right=False, content="cd"))
    rows = [
        tuple(RowScore(id=f"r{row}", job=A, tokens=10, loss=loss, right=5) for row in range(5)) for loss in (10.0, 15.0)
    ]
    file = write(
        home, "v002", ModelResults(questions=after, rows=rows[1]), ModelResults(questions=before, rows=rows[0])
    )
    state = evaluated("v002", file)
    found = flips(home, state, "origin", "v002")
    assert [(each.id, each.before, each.after, each.right) for each in found.questions] == [
        ("q1", "5", "4", True),
        ("q2", "4", "7", False),
    ]
    assert found.asked == 2  # the third was changed between the two
    show_flips(found, "origin", "v002", {A: "a.jsonl"})
    text = capsys.readouterr().out
    assert "questions: 2 of 2 flipped" in text
    assert "a.jsonl  5     +0.500  +0.500 to +0.500" in text
    assert "origin    ✓ 4" in text
    assert "v002      ✗ 7" in text
    assert flips(home, state, "v001", "v002").problem == "v001 was not evaluated: `keepstep versions evaluate v001`"


def test_results_that_were_changed_are_not_used(tmp_path: Path) -> None:
    home = Home(tmp_path)
    file = write(home, "v002", ModelResults(), None)
    assert isinstance(read_results(home, file), EvaluationResults)
    assert "was changed after the evaluation" in str(read_results(home, replace(file, sha256="0" * 64)))
    (home.evaluations / f"{file.id}.json").unlink()
    assert flips(home, evaluated("v002", file), "v002", "v002").problem.endswith("No such file or directory")
