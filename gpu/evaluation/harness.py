"""Run tasks of lm-evaluation-harness on a version: `python -P -m gpu.evaluation.harness ORDER`, a `TasksRequest`.

A task is a name that the harness knows, or a YAML file. The process never asks the network: data sets and metrics must
be on this machine. Prints a `TasksRun` or a `Refusal` as one line of JSON.
"""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from events.evaluation import TaskScore
from events.values import number
from gpu.errors import WorkerError
from gpu.ipc.protocol import TasksRequest, TasksRun, run_request

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1", "TQDM_DISABLE": "1"}

RESAMPLES = 1_000
"""Bootstrap resamples for the standard errors of metrics that are no means: as in `events.statistics`."""


class TasksRefused(WorkerError):
    """The tasks cannot be run."""


def run_tasks(order: TasksRequest) -> TasksRun:
    """Load the model and run the tasks. Raises TasksRefused, OSError, ValueError, RuntimeError."""
    os.environ.update(OFFLINE)  # before the libraries are imported, which read it once
    try:
        from lm_eval.evaluator import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
        from lm_eval.tasks._yaml_loader import load_yaml
    except ImportError as error:
        raise TasksRefused(f"lm-evaluation-harness cannot be imported: {error}") from error
    import torch

    manager = TaskManager()
    tasks: list[Any] = []
    for name in order.tasks:
        if name.endswith((".yaml", ".yml")):
            tasks.append(_with_local_files(load_yaml(name, resolve_func=True), Path(name).parent))
        elif name in manager.all_tasks:
            tasks.append(name)
        else:
            raise TasksRefused(f"there is no task {name}: `lm-eval ls tasks` lists them; a file ends in .yaml")
    device = order.device if order.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    began = time.monotonic()
    try:
        model = HFLM(pretrained=order.model, device=device, batch_size=order.batch_size, trust_remote_code=False)
        found: Mapping[str, Any] | None = simple_evaluate(
            model=model,
            tasks=tasks,
            limit=order.limit,
            task_manager=manager,
            bootstrap_iters=RESAMPLES,
            log_samples=False,
        )
    except Exception as error:  # data sets, metrics and templates of tasks raise anything
        raise TasksRefused(f"{type(error).__name__}: {error}") from error
    assert found is not None  # this is the only rank
    scores = tuple(score for task, values in found["results"].items() for score in _scores(task, values, found))
    if not scores:
        raise TasksRefused("the tasks have no metric")
    version = importlib.metadata.version("lm_eval")
    return TasksRun(scores=scores, seconds=time.monotonic() - began, device=device, harness=version)


def _with_local_files(config: dict[str, Any], directory: Path) -> dict[str, Any]:
    """The task with its data files relative to its own file, so that it can be run from anywhere."""
    arguments = config.get("dataset_kwargs")
    if not isinstance(arguments, dict) or "data_files" not in arguments:
        return config

    def absolute(name: Any) -> Any:
        if isinstance(name, dict):
            return {key: absolute(value) for key, value in name.items()}
        if isinstance(name, list):
            return [absolute(each) for each in name]
        return str((directory / str(name)).absolute()) if "://" not in str(name) else name

    return {**config, "dataset_kwargs": {**arguments, "data_files": absolute(arguments["data_files"])}}


def _scores(task: str, values: Mapping[str, Any], found: Mapping[str, Any]) -> list[TaskScore]:
    """The metrics of a task. The harness names them "acc,none" and "acc_stderr,none"."""
    better: Mapping[str, bool] = found.get("higher_is_better", {}).get(task, {})
    samples = found.get("n-samples", {}).get(task, {}).get("effective", 0)
    scores = []
    for name, value in values.items():
        metric, comma, filter_ = name.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = values.get(f"{metric}_stderr,{filter_}")
        scores.append(
            TaskScore(
                task=task,
                metric=metric if filter_ == "none" else f"{metric} ({filter_})",
                value=number(float(value)),
                stderr=float(error) if isinstance(error, int | float) else None,
                samples=int(samples),
                higher_is_better=bool(better.get(metric, True)),
            )
        )
    return scores


if __name__ == "__main__":
    run_request(TasksRequest, run_tasks)
