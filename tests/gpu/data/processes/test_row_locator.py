"""The row locator finds the steps that trained a row, without the worker."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
import pytest

from events.messages import Prepare, Prepared
from events.settings import DataSettings, JobSettings
from gpu.data.processes import row_locator
from gpu.data.processes.row_locator import locate
from gpu.ipc.protocol import Located, LocateRows, Locations, TrainedJob
from tests.gpu.helpers import LORA, Home, settings
from tests.harness.tiny_model import MARKED_TEMPLATE, make_rows, make_tokenizer

ROWS = make_rows(10)


def planned(home: Home, data: bytes, how: JobSettings) -> tuple[str, Any]:
    """Return the job, and the plan that the worker made."""
    job = home.add(data)
    home.new_session().prepare(Prepare(attempt=1, job=job, settings=how))
    return job, home.channel.of(Prepared)[0].plan


def asked(home: Home, job: str, plan: Any, how: JobSettings, *lines: int) -> Located:
    trained = TrainedJob(job=job, settings=how, tokenizer_sha256=plan.tokenizer_sha256, lines=lines)
    (located,) = locate(LocateRows(home=str(home.path), trained=(trained,))).located
    return located


def forget(home: Home) -> None:
    """Delete the cache."""
    for path in (home.path / "cache" / "tokens").iterdir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("cached", [True, False])
def test_each_row_is_found_where_the_worker_trains_it(home: Home, packing: bool, cached: bool) -> None:
    """Three steps an epoch, two epochs; from the home's cache, or from the file."""
    how = settings(LORA, data=DataSettings(packing=packing))
    job, plan = planned(home, ROWS, how)
    if not cached:
        forget(home)
    found = asked(home, job, plan, how, *range(1, 11))
    assert found.batches_sha256 == plan.batches_sha256
    assert all(len(steps) == 2 and 1 <= steps[0] <= 3 < steps[1] <= 6 for steps in found.steps)
    first = [steps[0] for steps in found.steps]
    assert sorted(first) == [1] * 4 + [2] * 4 + [3] * 2
    if not cached:
        assert not list((home.path / "cache" / "tokens").iterdir())  # the home is only read


def test_a_blank_line_and_a_skipped_row_are_trained_at_no_step(home: Home) -> None:
    how = settings(LORA, data=DataSettings(bad_rows="skip", bad_rows_max=0.5))
    job, plan = planned(home, b"\n" + make_rows(2) + b"{oops\n", how)
    assert (plan.rows, plan.skipped_rows) == (2, 1)
    assert [bool(steps) for steps in asked(home, job, plan, how, 1, 2, 3, 4, 99).steps] == [
        False,
        True,
        True,
        False,
        False,
    ]


def test_what_is_not_as_it_was_is_said_of_the_file_that_it_concerns(home: Home) -> None:
    """A changed file or tokenizer is reported; the other file is still located."""
    how = settings(LORA)
    job, plan = planned(home, ROWS, how)
    other, other_plan = planned(home, make_rows(5), how)
    path = home.path / "data" / f"{job}.jsonl"
    path.write_bytes(make_rows(9))
    forget(home)
    assert "has changed since" in asked(home, job, plan, how, 1).problem
    path.unlink()
    assert "cannot be read" in asked(home, job, plan, how, 1).problem
    trained = tuple(
        TrainedJob(job=each, settings=how, tokenizer_sha256=made.tokenizer_sha256, lines=(1,))
        for each, made in ((job, plan), (other, other_plan))
    )
    answers = locate(LocateRows(home=str(home.path), trained=trained)).located
    assert [bool(answer.problem) for answer in answers] == [True, False]

    model = (home.path / "model").resolve()
    (home.path / "model").unlink()
    (home.path / "model").mkdir()
    for file in model.iterdir():
        (home.path / "model" / file.name).symlink_to(file)
    for file in (home.path / "model").glob("tokenizer*"):
        file.unlink()
    (home.path / "model" / "chat_template.jinja").unlink(missing_ok=True)
    make_tokenizer(MARKED_TEMPLATE).save_pretrained(home.path / "model")
    row_locator._tokenizer.cache_clear()
    assert "has changed since the file was trained" in asked(home, other, other_plan, how, 1).problem
    row_locator._tokenizer.cache_clear()


def test_it_is_a_program_that_answers_in_one_line_and_loads_no_torch(home: Home) -> None:
    how = settings(LORA)
    job, plan = planned(home, ROWS, how)
    trained = TrainedJob(job=job, settings=how, tokenizer_sha256=plan.tokenizer_sha256, lines=(1,))
    order = msgspec.json.encode(LocateRows(home=str(home.path), trained=(trained,))).decode()
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "gpu.data.processes.row_locator", order],
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = ended.stdout.splitlines()
    answer = msgspec.json.decode(line, type=Locations)
    assert answer.located[0].batches_sha256 == plan.batches_sha256
    program = "import sys, gpu.data.processes.row_locator; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", program], check=False).returncode == 0
