"""What the evaluations say about versions: lines for `versions list`, `show`, `diff` and `matrix`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from cli.home.paths import Home
from cli.output.evaluation_lines import task_text
from cli.output.terminal import ATTENTION, BAD, GOOD, Row, number, print_json, print_listing, print_report, say
from cli.text import printable
from events.evaluation import Comparison, EvaluationResults, FileChange, FileScore, ModelResults, ResultsFile, Scores
from journal.durable import read_file
from projections.evaluation.marks import Verdict, verdict, worst_change

if TYPE_CHECKING:
    from core.state import State
    from projections.evaluation.matrix import EvaluationChart, VersionResult
    from projections.progress import VersionMark

FLIPS_SHOWN = 10
"""Flipped questions in the terminal; --json has all."""

COLUMNS_SHOWN = 5
"""Files in a row of the matrix in the terminal: as many as fit into 80 columns."""

ROWS_SHOWN = 20

TASKS_SHOWN = 20

TEXT_CHARACTERS = 300
"""Characters of an answer in the terminal: about four lines of 80 columns."""

NOT_EVALUATED = (
    "not evaluated. `keepstep versions evaluate {version}` requests it; it needs held-out rows ([data] holdout, "
    "validation) or questions in evaluation/*.jsonl"
)


# -- `versions list` ------------------------------------------------------------------------------------------------


def mark_text(version: str, state: State, mark: VersionMark | None) -> str:
    """The evaluation of a version in a word, with the questions that it answers right: "worse 4/10"."""
    word: Verdict = verdict(version, state, mark)
    score = mark.questions if mark is not None and not mark.failed else None
    right = f"{score.right}/{score.total}" if score is not None and score.total else ""
    return " ".join(filter(None, (word, right)))


# -- `versions show` ------------------------------------------------------------------------------------------------


def evaluation_rows(
    version: str, state: State, found: VersionResult | None, chart: EvaluationChart, mark: VersionMark | None
) -> Iterator[Row]:
    """The lines about the evaluation of a version: the verdict with what to do, the scores, and how far it moved."""
    yield from _verdict_rows(version, state, found, mark)
    for task in found.tasks[:TASKS_SHOWN] if found is not None else ():
        yield Row("task", task_text(task))
    if found is None or found.scores is None:
        return
    comparison, scores = found.comparison, found.scores
    before = comparison.scores if comparison is not None else None
    parent = (comparison.parent or "the origin") if comparison is not None else ""
    if scores.questions.total:
        yield Row("questions", _questions_text(version, scores, comparison, parent))
    if (loss := _mean_loss(scores.files)) is not None:
        earlier = _mean_loss(before.files) if before is not None else None
        compared = f" ({parent}: {number(earlier)})" if earlier is not None else ""
        yield Row("loss", f"{number(loss)} nats per token, the mean over {_files(len(scores.files))}{compared}")
    if comparison is not None and (worst := worst_change(comparison.changes)) is not None:
        name = printable(chart.names.get(worst.job, worst.job[:12]))
        yield Row("worst file", f"{name}: {_change_text(worst.change, worst.low, worst.high)}")
    if found.divergence is not None:
        moved = number(found.divergence.nats)
        yield Row("moved", f"KL({parent or 'parent'} ‖ {version}) {moved} nats per token on what is new")
    if found.problem:
        yield Row("missing", found.problem, ATTENTION)


def _verdict_rows(version: str, state: State, found: VersionResult | None, mark: VersionMark | None) -> Iterator[Row]:
    word = verdict(version, state, mark)
    held = state.evaluations.hold_of(version)
    match word:
        case "pending":
            yield Row("evaluated", "not yet: it is evaluated before the next file is trained", ATTENTION)
        case "held":
            reason = held.reason if held is not None else ""
            yield Row("held", f"the head does not move to it: {reason}", ATTENTION)
            yield Row("", f"→ to use it after all: keepstep versions promote {version}", ATTENTION)
            yield Row("", f"→ to delete it, and keep what was trained: keepstep versions discard {version}", ATTENTION)
        case "failed":
            yield Row("evaluated", f"no: {mark.failed if mark is not None else ''}", BAD)
            yield Row("", f"→ to try again: keepstep versions evaluate {version}", BAD)
        case "worse":
            yield Row("worse", mark.worse if mark is not None else "", ATTENTION)
            yield Row(
                "", f"→ the head has moved to it; to go back: keepstep versions restore {_parent(found)}", ATTENTION
            )
        case "ok":
            yield Row("evaluated", "not worse than its parent, by the limits of [versions]", GOOD)
        case "incomplete":
            yield Row("evaluated", "in part", ATTENTION)
        case _:
            yield Row("evaluated", NOT_EVALUATED.format(version=version))
    if found is not None and found.promoted_by:
        by = "after its evaluation" if found.promoted_by == "gate" else "by a person"
        yield Row("promoted", by)


def _parent(found: VersionResult | None) -> str:
    comparison = found.comparison if found is not None else None
    return comparison.parent or "origin" if comparison is not None else "origin"


def _questions_text(version: str, scores: Scores, comparison: Comparison | None, parent: str) -> str:
    text = f"{scores.questions.right} of {scores.questions.total} right"
    if comparison is None or not comparison.scores.questions.total:
        return text
    before = comparison.scores.questions
    flipped = f"; {comparison.gained} more, {comparison.lost} lost" if comparison.gained or comparison.lost else ""
    see = f" (see: keepstep versions diff {comparison.parent or 'origin'} {version})" if flipped else ""
    return f"{text} ({parent}: {before.right} of {before.total}{flipped}){see}"


def file_table(found: VersionResult, chart: EvaluationChart) -> tuple[list[str], list[list[str]]]:
    """The columns and rows of the table by file: score, change from the parent, interval."""
    assert found.scores is not None
    changes = {each.job: each for each in found.comparison.changes} if found.comparison is not None else {}
    rows = []
    for score in found.scores.files:
        change = changes.get(score.job)
        rows.append(
            [
                chart.names.get(score.job, score.job[:12]),
                str(score.rows),
                number(score.loss),
                _signed(change.change) if change is not None else "",
                _interval(change) if change is not None else "",
                f"{score.accuracy:.0%}",
            ]
        )
    return ["file", "rows", "loss", "change", "95 % interval", "right tokens"], rows


def _mean_loss(files: Sequence[FileScore]) -> float | None:
    losses = [each.loss for each in files if isinstance(each.loss, float)]
    return sum(losses) / len(losses) if losses else None


def _change_text(change: object, low: float | None, high: float | None) -> str:
    interval = f" (95 % interval {low:+z.3f} to {high:+z.3f})" if low is not None and high is not None else ""
    return f"its loss changed by {_signed(change)} nats per token{interval}"


def _interval(change: FileChange) -> str:
    return f"{change.low:+z.3f} to {change.high:+z.3f}" if change.low is not None and change.high is not None else ""


def _signed(value: object) -> str:
    return f"{value:+z.3f}" if isinstance(value, float | int) else str(value)


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"


# -- `versions matrix` ----------------------------------------------------------------------------------------------


def show_matrix(chart: EvaluationChart, *, json: bool) -> None:
    """`keepstep versions matrix`."""
    if json:
        print_json(chart)
        return
    if not chart.rows:
        say("no job was evaluated yet: it needs held-out rows ([data] holdout) or questions in evaluation/*.jsonl")
        return
    files = chart.files[-COLUMNS_SHOWN:]
    columns = ["after", *(_short(each.name) for each in files)]
    rows = [[_short(row.name), *(_cell(row.files, each.job) for each in files)] for row in chart.rows[-ROWS_SHOWN:]]
    say("loss on held-out rows of each file (nats per token), after each file was trained")
    print_listing(columns, rows)
    hidden = [
        f"{len(chart.files) - len(files)} files" if len(chart.files) > len(files) else "",
        f"{len(chart.rows) - ROWS_SHOWN} rows" if len(chart.rows) > ROWS_SHOWN else "",
    ]
    if any(hidden):
        say(f"… and {' and '.join(filter(None, hidden))} more; --json has all")
    print_report(list(_matrix_rows(chart)))


def _matrix_rows(chart: EvaluationChart) -> Iterator[Row]:
    if chart.average_loss is not None:
        yield Row("average loss", f"{number(chart.average_loss)}, right tokens {chart.average_accuracy or 0:.0%}")
    if chart.backward_transfer is not None:
        sign = "earlier files got better" if chart.backward_transfer > 0 else "earlier files got worse"
        yield Row("backward transfer", f"{_signed(chart.backward_transfer)} nats per token: {sign}")
    worst = next((each for each in chart.files if each.job == chart.worst_file), None)
    if worst is not None and worst.forgetting is not None:
        yield Row("most forgotten", f"{printable(worst.name)}: {_signed(worst.forgetting)} above its best loss")
    last = chart.rows[-1]
    if last.questions.total:
        yield Row("questions", f"{last.questions.right} of {last.questions.total} right")
    if last.divergence is not None:
        yield Row("moved", f"KL {number(last.divergence.nats)} nats per token from the base on what is new")
    if last.problem:
        yield Row("missing", last.problem, ATTENTION)


def _cell(files: Sequence[FileScore], job: str) -> str:
    return next(
        (f"{each.loss:.3f}" if isinstance(each.loss, float) else each.loss for each in files if each.job == job), ""
    )


def _short(name: str) -> str:
    name = printable(name.removesuffix(".jsonl"))
    return name if len(name) <= 12 else f"{name[:11]}…"


# -- `versions diff` ------------------------------------------------------------------------------------------------


class Flip(NamedTuple):
    """A question that one version answers right and the other does not."""

    id: str
    suite: str
    prompt: str
    expected: str
    before: str
    """The answer of the first version."""
    after: str
    right: bool
    """True: the second version is right."""


class Flips(NamedTuple):
    """Questions that flipped between two versions, and how the loss on each file changed."""

    questions: list[Flip]
    asked: int
    """Questions that both were asked."""
    problem: str = ""
    """Why there is nothing to compare; "": there is."""
    files: tuple[FileChange, ...] = ()
    """On the rows that both were scored on."""


def read_results(home: Home, file: ResultsFile) -> EvaluationResults | str:
    """The content of a results file, or why it cannot be used."""
    path = home.evaluations / f"{file.id}.json"
    try:
        data = read_file(path, storage=home.storage)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    if hashlib.sha256(data).hexdigest() != file.sha256:
        return f"{path} was changed after the evaluation"
    try:
        return msgspec.json.decode(data, type=EvaluationResults)
    except msgspec.MsgspecError as error:
        return f"{path} is of another version of keepstep: {error}"


def flips(home: Home, state: State, name: str, other: str) -> Flips:
    """What changed from version `name` to `other`; each is a version or the origin."""
    from gpu.evaluation.results import compare

    found: list[ModelResults] = []
    for version, partner in ((name, other), (other, name)):
        results = _results(home, state, version) or _results_as_parent(home, state, version, partner)
        if isinstance(results, str) or results is None:
            return Flips([], 0, results or f"{version} was not evaluated: `keepstep versions evaluate {version}`")
        found.append(results)
    one, two = found
    before = {each.id: each for each in one.questions}
    both = [(then, each) for each in two.questions if (then := before.get(each.id)) and then.content == each.content]
    flipped = [
        Flip(now.id, now.suite, now.prompt, now.expected, then.answer, now.answer, now.right)
        for then, now in both
        if then.right != now.right
    ]
    return Flips(flipped, len(both), "", compare(None, one, two, _seed(home, state, other)).changes)


def _seed(home: Home, state: State, version: str) -> str:
    """The seed of the intervals: the one that the evaluation of this version has used."""
    file = state.evaluations.results_of(version)
    results = read_results(home, file) if file is not None else None
    return results.suites_sha256 if isinstance(results, EvaluationResults) else ""


def _results(home: Home, state: State, version: str) -> ModelResults | str | None:
    file = state.evaluations.results_of(version)
    if file is None:
        return None
    results = read_results(home, file)
    return results if isinstance(results, str) else results.results


def _results_as_parent(home: Home, state: State, version: str, child: str) -> ModelResults | None:
    """The results of a version that was evaluated only as the parent of another one."""
    file = state.evaluations.results_of(child)
    results = read_results(home, file) if file is not None else None
    if not isinstance(results, EvaluationResults):
        return None
    return results.parent_results if (results.parent or "origin") == version else None


def show_flips(found: Flips, name: str, other: str, names: dict[str, str]) -> None:
    """The part of `keepstep versions diff` about scores. `names`: of files, by the id of their job."""
    if found.problem:
        say(f"scores: {found.problem}")
        return
    if found.files:
        say(f"loss on held-out rows, {other} minus {name} (nats per token):")
        print_listing(
            ["file", "rows", "change", "95 % interval"],
            [
                [names.get(each.job, each.job[:12]), str(each.rows), _signed(each.change), _interval(each)]
                for each in found.files
            ],
        )
    say(f"questions: {len(found.questions)} of {found.asked} flipped")
    for each in found.questions[:FLIPS_SHOWN]:
        print_report(
            [
                Row("prompt", f"{_line(each.prompt)}  ({printable(each.suite)}: {printable(each.id)})", "bold"),
                Row("expected", _line(each.expected)),
                Row(name, f"{'✗' if each.right else '✓'} {_line(each.before) or '(nothing)'}"),
                Row(
                    other,
                    f"{'✓' if each.right else '✗'} {_line(each.after) or '(nothing)'}",
                    GOOD if each.right else BAD,
                ),
            ]
        )
        say()
    if len(found.questions) > FLIPS_SHOWN:
        say(f"… and {len(found.questions) - FLIPS_SHOWN} more; --json has all")


def flips_json(found: Flips, names: dict[str, str]) -> dict[str, Any]:
    """The flips as JSON values."""
    files = [{**msgspec.to_builtins(each), "name": names.get(each.job, "")} for each in found.files]
    return {**found._asdict(), "questions": [each._asdict() for each in found.questions], "files": files}


def _line(text: str) -> str:
    one = " ".join(printable(text.replace("\n", " ")).split())
    return one if len(one) <= TEXT_CHARACTERS else f"{one[: TEXT_CHARACTERS - 1]}…"
