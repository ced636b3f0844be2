"""The output of one `keepstep run`: lines, a live bar on a terminal, and a summary at the end."""

from __future__ import annotations

import sys
import time

from msgspec import Struct

from cli.layout import shorten_middle, terminal_width
from cli.output.event_lines import is_skipped
from cli.output.terminal import bar, number, say
from cli.output.times import duration
from cli.text import printable
from core.job import Job
from core.state import State
from core.topics.consolidation import held_version_of
from events import kinds
from events.kinds import AnyEvent, EvaluationDone
from events.values import Number

REDRAW_EVERY_S = 0.2
"""A bar that is drawn more often only flickers."""

SMOOTHING = 0.1
"""Weight of the newest step in the smoothed time of a step."""

NAME_COLUMNS = 24
"""Columns for the name of the file on the bar."""

FILES_SHOWN = 10
"""Files in the summary; the rest is counted."""

CLEAR_LINE = "\r\x1b[K"


class Trained(Struct):
    """The part of one job that a run trained."""

    name: str
    first_loss: Number
    last_loss: Number
    steps: int = 0
    goal: int | None = None
    done: bool = False


class RunScreen:
    """Prints the lines of a run. On a terminal, a bar under them shows the job in progress."""

    def __init__(self) -> None:
        self.is_live = sys.stdout.isatty()
        """True if steps are shown on the bar and not as lines."""
        self._bar = ""
        self._next_draw = 0.0
        self._step_s: float | None = None
        self._validation_loss: Number | None = None
        self._trained: dict[str, Trained] = {}
        self._failed: list[str] = []
        self._versions: list[str] = []
        self._state: State | None = None

    # -- while it runs --------------------------------------------------------------------------------------------

    def write(self, line: str) -> None:
        """Print a line above the bar."""
        self._clear()
        say(line, flush=True)
        self._draw()

    def observe(self, event: AnyEvent, state: State) -> None:
        """Remember an event for the summary, and update the bar. `state`: after the event."""
        self._state = state
        job = state.training.current
        match event:
            case kinds.StepReached() if job is not None and not is_skipped(event):
                self._count_step(event, job)
                self._update_bar(event, job)
            case EvaluationDone(loss=loss):
                self._validation_loss = loss
            case kinds.AttemptStarted():
                self._step_s = self._validation_loss = None
            case kinds.JobTrained(job=trained):
                if trained in self._trained:
                    self._trained[trained].done = True
                self._remove_bar()
            case kinds.JobFailed(job=failed):
                found = state.job(failed)
                self._failed.append(printable(found.name) if found is not None else failed[:12])
                self._remove_bar()
            case kinds.VersionPublished(version=version):
                self._versions.append(version)
            case kinds.AttemptFailed() | kinds.AttemptInterrupted() | kinds.AttemptYielded() | kinds.DaemonStopped():
                self._remove_bar()

    def close(self) -> None:
        """Remove the bar."""
        self._remove_bar()

    def _count_step(self, event: kinds.StepReached, job: Job) -> None:
        found = self._trained.get(event.job)
        if found is None:
            found = self._trained[event.job] = Trained(printable(job.name), event.loss, event.loss)
        found.last_loss, found.steps, found.goal = event.loss, found.steps + 1, job.goal

    def _update_bar(self, event: kinds.StepReached, job: Job) -> None:
        step_s = event.seconds if self._step_s is None else self._step_s + SMOOTHING * (event.seconds - self._step_s)
        self._step_s = step_s
        goal = job.goal or event.step
        parts = [
            f"{shorten_middle(printable(job.name), NAME_COLUMNS)}  {bar(event.step / max(1, goal))}",
            f"step {event.step}/{goal}",
            f"{duration((goal - event.step) * step_s)} left",
            f"loss {number(event.loss)}",
        ]
        if self._validation_loss is not None:
            parts.append(f"validation {number(self._validation_loss)}")
        if event.seconds > 0:
            parts.append(f"{event.tokens / event.seconds:.0f} tokens/s")
        self._bar, now = parts[0], time.monotonic()
        for part in parts[1:]:  # a narrow terminal drops the last ones
            if len(self._bar) + 2 + len(part) < terminal_width():
                self._bar += f"  {part}"
        if now >= self._next_draw or event.step == goal:
            self._next_draw = now + REDRAW_EVERY_S
            self._clear()
            self._draw()

    def _draw(self) -> None:
        if self.is_live and self._bar:
            sys.stdout.write(self._bar[: terminal_width() - 1])
            sys.stdout.flush()

    def _clear(self) -> None:
        if self.is_live and self._bar:
            sys.stdout.write(CLEAR_LINE)
            sys.stdout.flush()

    def _remove_bar(self) -> None:
        self._clear()
        self._bar = ""

    # -- at the end -----------------------------------------------------------------------------------------------

    def summary(self) -> str:
        """A summary of the run: trained files, the checkpoint, the next commands; "" if the daemon did not start."""
        state = self._state
        if state is None:
            return ""
        lines = [f"  {_trained_text(each)}" for each in [*self._trained.values()][-FILES_SHOWN:]]
        if lines:
            more = len(self._trained) - FILES_SHOWN
            lines.insert(0, f"trained in this run{f' (and {more} files before)' if more > 0 else ''}:")
        if self._failed:
            lines.append(f"failed      {', '.join(self._failed)}")
        held = {each.version for each in state.evaluations.held}
        lines += [f"version     versions/{each}{' (held)' if each in held else ''}" for each in self._versions]
        if self._trained and (head := state.head.checkpoint) is not None:
            lines.append(f"checkpoint  {head.id}, at step {head.global_step}")
        advice = _next_steps(state, trained=bool(self._trained), published=bool(self._versions))
        return "\n".join([*lines, *(f"{'next' if not n else '':10}  {each}" for n, each in enumerate(advice))])


def _trained_text(found: Trained) -> str:
    steps = f"{found.steps} step{'' if found.steps == 1 else 's'}"
    goal = "" if found.done else f" of {found.goal}, not finished"
    loss = f"loss {number(found.first_loss)}"
    return f"{found.name}: {steps}{goal}, {loss}{f' → {number(found.last_loss)}' if found.steps > 1 else ''}"


def _next_steps(state: State, *, trained: bool, published: bool) -> list[str]:
    """The next commands after the run, the most useful first."""
    job = state.training.current
    if state.daemon.hold is not None:
        return ["`keepstep failures` says what happened; `keepstep resume` continues"]
    if job is not None:
        at = f"step {job.committed_step} of {job.goal}" if job.goal else "before its first step"
        return [f"`keepstep run` continues {printable(job.name)} at {at}"]
    if state.daemon.status in {"paused", "off_paused", "stopping_paused"}:
        return ["keepstep is paused: `keepstep resume`, then `keepstep run`"]
    if state.queue.front() is not None:
        count = len(state.queue) - state.queue.held
        return [f"`keepstep run` trains the {count} waiting file{'' if count == 1 else 's'}"]
    if (held := held_version_of(state)) is not None:
        return [
            f"`keepstep versions show {held}` says why it is held",
            f"`keepstep versions promote {held}` moves the head to it; `keepstep versions discard {held}` deletes it",
        ]
    if trained or state.head.checkpoint is not None:
        return [
            "`keepstep chat` to try the trained model; `keepstep compare` to see what changed",
            "`keepstep consolidate`, then `keepstep run`: make a version of it",
        ]
    if published:
        return ["`keepstep versions show`: what it is made of; `keepstep versions export` copies it"]
    return ["nothing waits: `keepstep add FILE`, then `keepstep run`"]
