"""The file of prompts: checked when it is set, kept under its hash, and never in the way of the training."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pytest

from cli.config.sample_prompts import FILE_BYTES_MAX, check_prompts, sample_plan
from cli.config.schema import parse_config
from cli.errors import UserError
from cli.home.paths import Home
from events.samples import PROMPTS_MAX, SamplePlan, SamplesSettings
from events.settings import DataSettings

ROW = b'{"prompt": "p", "completion": "c"}\n'
NAMED = SamplesSettings(prompts="p.jsonl")


def test_a_file_is_kept_as_it_is(home: Home) -> None:
    """The worker reads the copy, so a change in the middle of a job changes nothing."""
    for content in (ROW, ROW * 2):
        (home.root / "p.jsonl").write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        assert sample_plan(home, NAMED) == SamplePlan(settings=NAMED, prompts_sha256=sha256)
        assert (home.validation / f"{sha256}.jsonl").read_bytes() == content


def test_held_out_rows_need_no_file(home: Home) -> None:
    assert sample_plan(home, SamplesSettings()) == SamplePlan(settings=SamplesSettings())
    check_prompts(home, SamplesSettings(), DataSettings())
    assert not home.validation.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot be used: the file has no rows"),
        (ROW * (PROMPTS_MAX + 1), "has 65 rows; samples take 1 to 64"),
        (ROW + b"{broken\n", "cannot be used: line 2"),
        (b'{"prompt": "p"}\n', "cannot be used: line 1"),
        (b" " * (FILE_BYTES_MAX + 1), "bytes"),
    ],
    ids=["empty", "many", "broken", "no answer", "large"],
)
def test_a_file_that_cannot_be_used_is_refused_when_it_is_set(content: bytes, says: str, home: Home) -> None:
    (home.root / "p.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        check_prompts(home, NAMED, DataSettings())
    assert caught.value.advice
    check_prompts_of(home, ROW * PROMPTS_MAX)


def check_prompts_of(home: Home, content: bytes) -> None:
    (home.root / "p.jsonl").write_bytes(content)
    check_prompts(home, NAMED, DataSettings())


def test_one_that_is_no_file_is_named_and_not_opened(home: Home) -> None:
    """A pipe would have the daemon wait for ever. The plan says what is wrong, and the job trains."""
    (home.root / "d").mkdir()
    os.mkfifo(home.root / "pipe")
    for name, says in (("d", "not a file"), ("pipe", "not a file"), ("nowhere", "no file of prompts at")):
        settings = SamplesSettings(prompts=name)
        with pytest.raises(UserError, match=says):
            check_prompts(home, settings, DataSettings())
        plan = sample_plan(home, settings)
        assert says in plan.problem
        assert plan.prompts_sha256 == ""


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"match": "regex"}, "needs samples.pattern"),
        ({"match": "regex", "pattern": "("}, "is not a regular expression: missing"),
        ({"prompts": 65}, "samples.prompts = 65 is not allowed"),
        ({"prompts": "65"}, "is not allowed"),
        ({"cost_max": 0}, "samples.cost_max = 0 is not allowed"),
        ({"every": 3}, "unknown key samples.every"),
    ],
)
def test_values_that_cannot_be_used_are_refused(values: dict[str, Any], says: str, home: Home) -> None:
    with pytest.raises(UserError, match=says):
        parse_config({"model": {"path": "m"}, "samples": values}, home.config)


def test_a_pattern_is_checked_where_it_is_used(home: Home) -> None:
    """Left over from another time, it harms nobody."""
    document = {"model": {"path": "m"}, "samples": {"pattern": "("}}
    assert parse_config(document, home.config).samples.pattern == "("
