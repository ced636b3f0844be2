"""`keepstep status`: the state of the journal, and whether a daemon runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from cli.home.identity import daemon_is_alive
from cli.home.paths import Home, find_home
from cli.inbox.skipped_files import skipped_files
from cli.output.terminal import ATTENTION, Row, bar, number, print_json, print_report, report_text
from cli.output.times import ago, duration, local, local_time
from cli.status.machine import machine_now, machine_rows
from cli.status.progress_line import memory_health, timing, timing_text
from core.structures.situations import DiskFull
from gpu.runtime.streams import reader_is_gone
from journal import last_position
from projections.status import (
    CorrectionView,
    EvaluationView,
    JobView,
    SamplesView,
    StatusView,
    ValidationView,
    WatchingView,
    plain,
    read_status,
)
from projections.trouble import TERMINAL_CLOSED

REFRESH_S = 1.0

SKIPPED_FILES_SHOWN = 5


def show_status(home_option: Path | None, *, json: bool) -> None:
    """`keepstep status`."""
    home = find_home(home_option, reads_only=True)
    if json:
        print_json(status_report(home))
    else:
        view, alive = read_current(home)
        print_report(_rows(home, view, alive=alive))


def status_report(home: Home) -> dict[str, Any]:
    """Everything that `keepstep status` knows, as JSON values. Raises journal.errors.JournalError."""
    view, alive = read_current(home)
    machine = machine_now(home, alive=alive)
    return {
        **plain(view),
        "alive": alive,
        "health": health(view, alive=alive),
        "timing": plain(timing(view, alive=alive)),
        "skipped_files": [plain(each) for each in skipped_files(home, alive=alive)],
        "machine": plain(machine) if machine is not None else None,
        "failing_reports": _failing_reports(home),
    }


def watch_status(home_option: Path | None) -> None:
    """`keepstep status --watch`."""
    from rich.live import Live
    from rich.text import Text

    home = find_home(home_option, reads_only=True)
    with Live(auto_refresh=False) as live:
        try:
            while not reader_is_gone():
                view, alive = read_current(home)
                live.update(Text.from_ansi(report_text(_rows(home, view, alive=alive))), refresh=True)
                time.sleep(REFRESH_S)
        except KeyboardInterrupt:
            return


def _rows(home: Home, view: StatusView, *, alive: bool) -> list[Row]:
    skipped = skipped_files(home, alive=alive)
    rows = [Row("skipped", f"{each.path} {each.reason}", ATTENTION) for each in skipped[:SKIPPED_FILES_SHOWN]]
    if len(skipped) > SKIPPED_FILES_SHOWN:
        rows.append(Row("", f"… and {len(skipped) - SKIPPED_FILES_SHOWN} more in the inbox", ATTENTION))
    for name, error in _failing_reports(home).items():
        rows.append(Row("report", f"{name} fails: {error}", ATTENTION))
        rows.append(Row("", "→ training continues; see keepstep report", ATTENTION))
    return [*status_rows(view, alive=alive), *rows, *machine_rows(machine_now(home, alive=alive))]


def _failing_reports(home: Home) -> dict[str, str]:
    """The tools that do not get the metrics now, and why."""
    if not home.storage.exists(home.report_progress):
        return {}
    from cli.report.progress import failing  # most homes have no report

    return {name: progress.error or "" for name, progress in failing(home).items()}


def read_current(home: Home) -> tuple[StatusView, bool]:
    """The status now, and True if a daemon runs. Raises journal.errors.JournalError."""
    view = _fresh_status_file(home)
    if view is None:
        from cli.home.snapshot_reader import load_status  # loads the state machine, which is rarely needed here

        view = load_status(home)
    alive = daemon_is_alive(home)
    if not alive and view.job is not None and view.job.attempt is not None:
        view = replace(view, job=replace(view.job, status="interrupted", attempt=None))  # nothing trains now
    return view, alive


def _fresh_status_file(home: Home) -> StatusView | None:
    """The status file; None if it does not include the last record."""
    shown = read_status(home.status, storage=home.storage)
    if shown is None:
        return None
    last = last_position(home.journal, storage=home.storage)
    return shown if (last.seq, last.crc) == (shown.seq, shown.crc) else None


def health(view: StatusView, *, alive: bool) -> str:
    """One line: what the daemon does, or why it does nothing and what to do about that."""
    daemon, job = view.daemon, view.job
    if not alive:
        return _health_without_daemon(view)
    if view.hold is not None:
        return f"waiting for you: {view.hold.reason}"
    if view.full is not None:
        paused = "paused, and " if daemon.status == "paused" else ""
        return f"{paused}waiting for disk space: {view.full.message}"
    if daemon.status == "paused":
        return "paused; to continue: keepstep resume"
    if view.short is not None:
        return memory_health(view.short, job.name if job is not None and job.attempt is not None else None)
    if view.consolidation is not None and view.consolidation.version is not None:
        return f"consolidating into {view.consolidation.version} ({view.consolidation.status.replace('_', ' ')})"
    if job is None:
        return "waiting for files" if daemon.status == "idle" else daemon.status
    action = {"pausing": "pausing", "stopping": "stopping", "stopping_paused": "stopping"}.get(daemon.status)
    if action is not None:
        return f"{action}: {job.name} commits a checkpoint at its next step"
    if job.rows_evaluated:
        return f"evaluating {job.name}: {job.rows_evaluated[0]:,} of {job.rows_evaluated[1]:,} held-out rows"
    if job.tokens_sampled:
        return f"training {job.name}: it answers the prompts of its samples"
    if job.status == "training":
        return f"training {job.name}"
    if job.retry_at is not None:
        return f"{job.name} failed; the next attempt starts in {duration(max(0.0, job.retry_at - time.time()))}"
    rows = f": {job.rows_prepared[0]:,} of about {job.rows_prepared[1]:,} rows" if job.rows_prepared else ""
    return f"preparing {job.name}{rows}"


def _health_without_daemon(view: StatusView) -> str:
    at = " while it was stopping" if view.daemon.status in {"stopping", "stopping_paused"} else ""
    if view.daemon.status not in {"off", "off_paused"}:
        since = f" (last heartbeat {ago(view.daemon.heartbeat_at)})" if view.daemon.heartbeat_at else ""
        return (
            f"not running: the daemon (pid {view.daemon.pid}) died{at}{since}; "
            f"`keepstep run` continues after step {view.global_step}"
        )
    if view.hold is not None:
        return f"not running, and waiting for you: {view.hold.reason}"
    if view.full is not None:
        return f"not running, and waiting for disk space: {view.full.message}"
    if view.daemon.status == "off_paused":
        return "not running, and paused; to continue: keepstep resume, then keepstep run"
    stopped = view.daemon.stop_reason == TERMINAL_CLOSED
    closed = f": {TERMINAL_CLOSED} and the daemon stopped after a commit" if stopped else ""
    service = ". A service needs no terminal: keepstep service install" if stopped else ""
    if view.job is not None:
        return f"not running{closed}; `keepstep run` continues {view.job.name}{service}"
    return f"not running{closed}; to start: keepstep run{service}"


def status_rows(view: StatusView, *, alive: bool) -> list[Row]:
    """The lines of `keepstep status`."""
    rows: list[Row] = []

    def row(name: str, text: str, style: str = "") -> None:
        rows.append(Row(name, text, style))

    healthy = alive and view.hold is None and view.full is None and view.short is None
    line = ", ".join(filter(None, (health(view, alive=alive), timing_text(timing(view, alive=alive)))))
    row("keepstep", line, "bold" if healthy else f"bold {ATTENTION}")
    if view.config_error is not None:
        row("config", f"not used: {view.config_error.reason}", ATTENTION)
        row("", f"→ {view.config_error.advice}", ATTENTION)
    if view.hold is not None:
        row("", f"→ {view.hold.advice}", ATTENTION)
    if view.full is not None:
        row("", f"→ {_space_advice(view.full, view.daemon.status, alive=alive)}", ATTENTION)
    if view.job is not None:
        job = view.job
        if not alive:
            row("unfinished", _unfinished_line(job))
        elif job.steps_total:
            row("this file", f"{bar(job.progress)} step {job.step} of {job.steps_total}{_eta(job.eta_s, alive)}")
        if job.loss is not None:
            row("loss", f"{number(job.loss)}   learning rate {job.learning_rate:.2e}{_rate(job.tokens_per_s, alive)}")
        if job.replay:
            row("replay", job.replay)
    if view.validation is not None:
        row("validation", _validation_line(view.validation), ATTENTION if view.validation.concern else "")
    if view.samples is not None:
        row("samples", _samples_line(view.samples))
    if (own := view.self_correction) is not None:
        row("own rows", _correction_line(own), ATTENTION if own.stopped else "")
    if view.evaluation is not None:
        for text, style in _evaluation_lines(view.evaluation):
            row("evaluated", text, style)
    if view.job is not None or view.queue.waiting:
        row("all files", f"{bar(view.queue.progress)}{_eta(view.queue.eta_s, alive)}")
    row("queue", _queue_line(view))
    if view.consolidation is not None and view.consolidation.version is None:
        row("next", f"a consolidation{_after(view)}")
    if view.version is not None:
        row("version", f"{view.version.id}  (step {view.version.global_step}, {local_time(view.version.made_at)})")
    if view.checkpoint is not None:
        row("committed", f"step {view.global_step}  ({view.checkpoint.id}, {view.checkpoint.size_bytes / 1e6:.1f} MB)")
    else:
        origin = "nothing on the origin" if view.counts.trained else "nothing yet"
        row("committed", f"nothing since {view.version.id}" if view.version is not None else origin)
    counts = view.counts
    row(
        "done",
        f"{counts.trained} trained, {counts.rejected} rejected, {counts.skipped} skipped, {len(view.failed)} failed",
    )
    if view.watching is not None:
        row("overhead", _overhead_line(view.watching))
    for failed in view.failed:
        row("failed", f"{failed.name}; to try again: keepstep retry {failed.id[:12]}")
    for trouble in view.troubles:
        first_line = trouble.message.partition("\n")[0]
        row("problem", f"{local(trouble.at)}: {first_line}", ATTENTION)
    return rows


def _unfinished_line(job: JobView) -> str:
    """A job that has started and that no daemon works on."""
    if not job.steps_total:
        return f"{job.name}, before its first step"
    return f"{job.name}, {bar(job.progress)} step {job.step} of {job.steps_total} is committed"


def _validation_line(found: ValidationView) -> str:
    gap = f" (training loss {number(found.training_loss)}, gap {found.gap:+z.2f})" if found.gap is not None else ""
    return f"loss {number(found.loss)}{gap} on {found.rows} rows, after step {found.step} of {found.name}"


def _samples_line(found: SamplesView) -> str:
    text = "none yet"
    if found.answers:
        tag = f", {found.thinking} with {found.think_tag}" if found.think_tag else ""
        cost = f" ({found.cost:.1%} of training time)" if found.cost is not None else ""
        text = f"{found.matched} of {found.answers} as expected{tag}, after step {found.step} of {found.name}{cost}"
    asked = "; the next ones follow the next step" if found.asked else ""
    return f"{text}{asked}{f'; {found.missing}' if found.missing else ''}"


def _correction_line(found: CorrectionView) -> str:
    """Self-correction: its last figures, and why it stopped or waits."""
    right = f"{found.pass_rate:.0%} of own answers right, " if found.pass_rate is not None else ""
    cost = f" ({found.cost:.1%} of training time)" if found.cost is not None else ""
    files = f", {found.files} file{'' if found.files == 1 else 's'} so far" if found.files else ""
    if found.stopped:
        return f"self-correction stopped: {found.stopped}; `keepstep self-correction resume`"
    return f"{right}{found.waiting} rows wait for a file{files}{cost}{f'; {found.waits}' if found.waits else ''}"


def _evaluation_lines(found: EvaluationView) -> Iterator[tuple[str, str]]:
    """What is known of what was trained and forgotten, and which version waits for a person."""
    parts = []
    if found.loss is not None:
        parts.append(
            f"loss {number(found.loss)} on held-out rows of {found.files} file{'s' if found.files != 1 else ''}"
        )
    if found.questions.total:
        parts.append(f"{found.questions.right} of {found.questions.total} questions right")
    if found.name and (parts or found.problem):
        yield ", ".join([*parts, *([found.problem] if found.problem else [])]) + f", after {found.name}", ""
    for version in found.held:
        yield f"{version} is held: the head does not move to it; keepstep versions show {version}", ATTENTION
    if found.pending:
        yield f"{', '.join(found.pending)} to be evaluated before the next file", ""


def _overhead_line(cost: WatchingView) -> str:
    share = "nothing was trained" if cost.share is None else f"{cost.share:.2%} of training time"
    most = f"; most: {cost.most}" if cost.most is not None else ""
    return f"{share} ({cost.cpu_s:.1f} CPU seconds in {duration(cost.wall_s)}{most})"


def _after(view: StatusView) -> str:
    retry_at = view.consolidation.retry_at if view.consolidation is not None else None
    if retry_at is not None:
        return f", next attempt in {duration(max(0.0, retry_at - time.time()))}"
    return " when no file trains"


def _space_advice(full: DiskFull, status: str, *, alive: bool) -> str:
    paused = "`keepstep resume`" if status in {"off_paused", "paused", "pausing", "stopping_paused"} else ""
    run = "" if alive else "`keepstep run`"
    commands = " and ".join(filter(None, (paused, run)))
    then = f"then {commands}" if commands else "then training continues"
    return f"free disk space: {full.wanted_bytes / 1e6:.1f} MB must be free; {then}"


def _queue_line(view: StatusView) -> str:
    if not view.queue.waiting:
        return "empty"
    queue = view.queue
    lanes = [(name, count) for name, count in plain(queue.lanes).items() if count]
    by_lane = f" ({', '.join(f'{count} {name}' for name, count in lanes)})" if len(lanes) > 1 else ""
    held = f"; {queue.held} held (`keepstep queue`)" if queue.held else ""
    names = ", ".join(job.name for job in queue.next[:3])
    more = queue.waiting - queue.held - 3
    first = f": {names}" + (f" and {more} more" if more > 0 else "") if names else ""
    return f"{queue.waiting} waiting{by_lane}{first}{held}"


def _eta(eta_s: float | None, alive: bool) -> str:
    return f", {duration(eta_s)} left" if alive and eta_s is not None else ""


def _rate(tokens_per_s: float | None, alive: bool) -> str:
    return f"   {tokens_per_s:.0f} tokens/s" if alive and tokens_per_s is not None else ""
