"""`keepstep versions promote`, `discard` and `evaluate`: decide about a held version, and ask for an evaluation."""

from __future__ import annotations

from contextlib import closing

from cli.arguments.resolve import find_version_id
from cli.commands.common import delete_directories, format_size, read_state
from cli.commands.models.head import problem_of_version
from cli.config.schema import load_config
from cli.daemon.worker.messages import has_questions
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.identity import daemon_is_alive
from cli.home.paths import Home
from cli.output.terminal import print_json, say
from core.commands import DiscardVersion, PromoteVersion, RequestEvaluation
from core.decide import decide


def promote_version(home: Home, name: str, *, json: bool) -> None:
    """Move the head to a held version. Raises core.errors.Refused, UserError."""
    state = read_state(home)
    command = PromoteVersion(version=find_version_id(state, name))
    decide(state, command, home.clock.now())
    version = state.retention.version(command.version)
    assert version is not None  # else it would be refused
    if (problem := problem_of_version(home, version)) is not None:
        raise UserError(
            f"{version.id} is damaged: {problem}; the head was not moved",
            f"restore its files from a copy, or delete it: `keepstep versions discard {version.id}`",
        )
    with closing(EventStore.open(home)) as store:
        delete_directories(home, store.execute(command))
    if json:
        print_json({"version": version.id, "promoted": True})
        return
    say(f"training continues from {version.id}")
    say(f"to go back: keepstep versions restore {version.parent or 'origin'}")


def discard_version(home: Home, name: str, *, confirmed: bool, json: bool) -> None:
    """Delete a held version. Raises core.errors.Refused, UserError."""
    state = read_state(home)
    command = DiscardVersion(version=find_version_id(state, name))
    decide(state, command, home.clock.now())
    version = state.retention.version(command.version)
    assert version is not None  # else it would be refused
    if not confirmed:
        raise UserError(
            f"{version.id} would be deleted for good ({format_size(version.size_bytes)}), and what was trained stays; "
            "nothing was deleted",
            f"to delete it: keepstep versions discard {version.id} --confirm",
        )
    with closing(EventStore.open(home)) as store:
        delete_directories(home, store.execute(command))
        head = store.state.head
    if json:
        print_json({"version": version.id, "discarded": True})
        return
    start = head.checkpoint.id if head.checkpoint is not None else head.base or "the origin"
    say(f"{version.id} is deleted; what was trained stays, and training continues from {start}")


def request_evaluation(home: Home, name: str, *, json: bool) -> None:
    """Ask the daemon to evaluate a version. Raises core.errors.Refused, UserError."""
    state = read_state(home)
    version = find_version_id(state, name)
    settings = load_config(home.config, storage=home.storage).job
    holds_out = bool(settings.data.holdout or settings.data.validation)
    if not state.evaluations.files and not has_questions(home):
        later = "" if holds_out else " `keepstep config set data.holdout=0.05` holds rows out from the next file on."
        raise UserError(
            "there is nothing to evaluate a version on: no trained file has held-out rows, and evaluation/ has no "
            "questions",
            f'write questions into {home.questions}/mine.jsonl, such as {{"prompt": "…", "expected": "…"}}.{later}',
        )
    with closing(EventStore.open(home)) as store:
        store.execute(RequestEvaluation(version=version))
    if json:
        print_json({"version": version, "requested": True})
        return
    if daemon_is_alive(home):
        say(f"{version} is evaluated as soon as nothing trains; `keepstep versions show {version}` then shows it")
    else:
        say(f"{version} is evaluated by the next `keepstep run`; `keepstep versions show {version}` then shows it")
