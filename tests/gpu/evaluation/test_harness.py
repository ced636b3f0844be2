"""Tasks of lm-evaluation-harness on a small model, without the network. `make test-lm-eval` installs the package."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from gpu.evaluation.harness import TasksRefused, _scores, _with_local_files, run_tasks
from gpu.ipc.protocol import TasksRequest
from tests.harness.tiny_model import make_tiny_model

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="no lm-eval: `make test-lm-eval`"
)

TASK = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["3", "4"]
doc_to_target: "{{answer}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""


@pytest.fixture
def order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TasksRequest:
    """A task in a YAML file, whose data lies next to it."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"question": f"{n} + {n}?", "answer": n % 2} for n in range(6)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sums.yaml").write_text(TASK)
    model = make_tiny_model(tmp_path / "model")
    return TasksRequest(model=str(model), tasks=(str(tmp_path / "sums.yaml"),), device="cpu")


@pytest.mark.long
@needs_package
def test_a_task_of_a_file_is_run_on_local_data(order: TasksRequest) -> None:
    """The same model and task give the same score."""
    first = run_tasks(order)
    (score,) = first.scores
    assert (score.task, score.metric, score.samples, score.higher_is_better) == ("sums", "acc", 6, True)
    assert isinstance(score.value, float)
    assert 0.0 <= score.value <= 1.0
    assert run_tasks(order).scores == first.scores


@pytest.mark.long
@needs_package
def test_what_is_wrong_with_a_task_is_said(order: TasksRequest, tmp_path: Path) -> None:
    with pytest.raises(TasksRefused, match="there is no task no_such_task"):
        run_tasks(TasksRequest(model=order.model, tasks=("no_such_task",), device="cpu"))
    (tmp_path / "sums.jsonl").unlink()
    with pytest.raises(TasksRefused, match=r"sums\.jsonl"):
        run_tasks(order)


def test_data_files_are_relative_to_the_file_of_the_task(tmp_path: Path) -> None:
    config = {"dataset_kwargs": {"data_files": {"test": ["a.jsonl", "https://x/b.jsonl"]}}, "task": "t"}
    made = _with_local_files(config, tmp_path)
    assert made["dataset_kwargs"]["data_files"] == {"test": [str(tmp_path / "a.jsonl"), "https://x/b.jsonl"]}
    assert _with_local_files({"task": "t"}, tmp_path) == {"task": "t"}


def test_scores_are_read_from_the_results_of_the_harness() -> None:
    values = {"alias": "t", "acc,none": 0.5, "acc_stderr,none": 0.1, "em,strict": 1, "em_stderr,strict": "N/A"}
    found = {"higher_is_better": {"t": {"acc": False}}, "n-samples": {"t": {"effective": 7}}}
    accuracy, match = _scores("t", values, found)
    assert (accuracy.metric, accuracy.value, accuracy.stderr, accuracy.samples) == ("acc", 0.5, 0.1, 7)
    assert not accuracy.higher_is_better
    assert (match.metric, match.value, match.stderr) == ("em (strict)", 1.0, None)
