"""Evaluations of jobs and versions, and what the gate decided, as text for a person."""

from __future__ import annotations

from cli.text import printable
from core.state import State
from events import kinds
from events.evaluation import FileScore, Scores, TaskScore
from events.kinds import AnyEvent


def job_text(event: kinds.JobEvaluated) -> str:
    """The evaluation at the end of a job, on one line."""
    if event.results is None:
        return f"not evaluated: {printable(event.problem)}"
    problem = f"; {printable(event.problem)}" if event.problem else ""
    return f"evaluated: {scores_text(event.scores)} ({event.seconds:.1f} s){problem}"


def version_text(event: AnyEvent, state: State) -> str | None:
    """An event about a version that is evaluated, promoted or held. `state`: after the event."""
    match event:
        case kinds.VersionEvaluationRequested():
            return f"evaluation of {event.version} requested"
        case kinds.TasksEvaluated():
            first = "; ".join(task_text(each) for each in event.scores[:3])
            more = f"; and {len(event.scores) - 3} more" if len(event.scores) > 3 else ""
            return f"tasks of lm-evaluation-harness on {event.version}: {first}{more}"
        case kinds.VersionEvaluationStarted():
            return f"evaluating {event.version}, compared with {event.parent or 'the origin'}"
        case kinds.VersionEvaluated():
            return _evaluated_text(event, is_held=state.evaluations.hold_of(event.version) is not None)
        case kinds.VersionEvaluationFailed(failure=None):
            return f"the evaluation of {event.version} was interrupted: {event.message}; it starts again"
        case kinds.VersionEvaluationFailed(retry=True):
            return f"the evaluation of {event.version} failed ({event.failure}): {event.message}; it is tried again"
        case kinds.VersionEvaluationFailed():
            return (
                f"the evaluation of {event.version} failed ({event.failure}): {event.message}\n"
                f"→ to try again: `keepstep versions evaluate {event.version}`"
            )
        case kinds.VersionHeld():
            return (
                f"{event.version} is held: {event.reason}\n→ training continues without it. `keepstep versions promote "
                f"{event.version}` moves the head to it; `keepstep versions discard {event.version}` deletes it"
            )
        case kinds.VersionPromoted():
            who = "the gate" if event.by == "gate" else "you"
            return f"training continues from {event.version} ({who} promoted it)"
        case _:
            return None


def task_text(score: TaskScore) -> str:
    """One metric of a task.

    >>> task_text(TaskScore(task="sums", metric="acc", value=0.5, stderr=0.05, samples=100, higher_is_better=True))
    'sums: acc 0.5000 ± 0.0500 (100 samples)'
    """
    value = f"{score.value:.4f}" if isinstance(score.value, float) else score.value
    error = f" ± {score.stderr:.4f}" if score.stderr is not None else ""
    return f"{printable(score.task)}: {printable(score.metric)} {value}{error} ({score.samples} samples)"


def scores_text(scores: Scores) -> str:
    """The scores of a model on both suites.

    >>> scores_text(Scores())
    'nothing was measured'
    """
    parts = []
    tokens = sum(file.tokens for file in scores.files)
    if tokens:
        parts.append(f"held-out loss {_mean_loss(scores.files)} on {_files(len(scores.files))}")
    if scores.questions.total:
        parts.append(f"{scores.questions.right} of {scores.questions.total} questions right")
    return ", ".join(parts) or "nothing was measured"


def _evaluated_text(event: kinds.VersionEvaluated, *, is_held: bool) -> str:
    now = scores_text(event.scores)
    before = f"; before: {scores_text(event.comparison.scores)}" if event.comparison is not None else ""
    worse = f"\nworse than its parent: {event.worse}" if event.worse and not is_held else ""
    problem = f"\n{printable(event.problem)}" if event.problem else ""
    return f"evaluated {event.version}: {now}{before} ({event.seconds:.1f} s){worse}{problem}"


def _mean_loss(files: tuple[FileScore, ...]) -> str:
    """Each file counts once, as in the status and in `keepstep versions show`."""
    losses = [file.loss for file in files if isinstance(file.loss, float)]
    return "not finite" if len(losses) < len(files) else f"{sum(losses) / len(losses):.4f}"


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number} files"
