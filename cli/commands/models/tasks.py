"""`keepstep versions evaluate --tasks`: run tasks of lm-evaluation-harness on a version, and journal the scores."""

from __future__ import annotations

import importlib.util
from contextlib import closing
from pathlib import Path

import msgspec

from cli.arguments.resolve import find_version_id
from cli.commands.common import read_state
from cli.commands.models.head import problem_of_version
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.home.subprocesses import ask, refused
from cli.output.evaluation_lines import task_text
from cli.output.terminal import print_json, say
from core.commands import RecordTasks
from events.evaluation import TASK_SCORES_MAX
from events.values import Device
from gpu.ipc.protocol import Refusal, TasksRequest, TasksRun

PACKAGE = "lm_eval"

ADVICE = "correct the task; its data must be on this machine, because keepstep evaluates without the network"


def evaluate_tasks(
    home: Home, name: str, tasks: tuple[str, ...], limit: int | None, batch_size: int, device: Device, *, json: bool
) -> None:
    """Run the tasks and journal their scores. Raises UserError, core.errors.Refused, journal.errors.JournalError."""
    state = read_state(home)
    version = state.retention.version(find_version_id(state, name))
    assert version is not None  # it was found by its id
    if (problem := problem_of_version(home, version)) is not None:
        raise UserError(f"{version.id} is damaged: {problem}; nothing was evaluated", "restore its files from a copy")
    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError("lm-evaluation-harness is not installed", "`pip install 'keepstep[lm-eval]'`")
    for task in tasks:
        if task.endswith((".yaml", ".yml")) and not Path(task).is_file():
            raise UserError(f"there is no file {task}", "name a YAML file of a task, or a task that the harness knows")
    if not json:
        say(f"running {', '.join(tasks)} on {version.id}", flush=True)
    order = TasksRequest(
        model=str(home.versions / version.id), tasks=tasks, limit=limit, device=device, batch_size=batch_size
    )
    reply = ask("gpu.evaluation.harness", order, otherwise="check the installation: `pip check`")
    answer = msgspec.json.decode(reply, type=TasksRun | Refusal)
    if isinstance(answer, Refusal):
        raise refused(f"{version.id} was not evaluated", answer, ADVICE)
    command = RecordTasks(
        version=version.id,
        scores=answer.scores[:TASK_SCORES_MAX],
        limit=limit,
        seconds=answer.seconds,
        device=answer.device,
        harness=answer.harness,
    )
    with closing(EventStore.open(home)) as store:
        store.execute(command)
    if json:
        print_json(answer)
        return
    for score in answer.scores:
        say(task_text(score))
