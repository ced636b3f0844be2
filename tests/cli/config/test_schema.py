"""keepstep.toml: what is written reads back, and what is not allowed is named with its key, value and remedy."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from cli.config.schema import Config, load_config, parse_config
from cli.config.template import config_text
from cli.errors import UserError
from events.settings import DataSettings, FullSettings, JobSettings, LoraSettings, ModelSettings

HERE = Path("keepstep.toml")
MODEL: dict[str, Any] = {"model": {"path": "m"}}


@pytest.mark.parametrize(
    "job",
    [
        JobSettings(model=ModelSettings(path="m")),
        JobSettings(model=ModelSettings(path='odd "name"\\'), method=FullSettings()),
        JobSettings(
            model=ModelSettings(path="m"),
            method=LoraSettings(target_modules=("q_proj", "v_proj")),
            data=DataSettings(prompt="question", completion="answer"),
        ),
    ],
)
def test_what_is_written_reads_back(job: JobSettings) -> None:
    """Comments and all: the file is the config."""
    config = Config(job=job)
    assert parse_config(tomllib.loads(config_text(config)), HERE) == config


def test_every_setting_is_written_with_a_comment() -> None:
    """A user can change the file without the manual."""
    lines = config_text(Config(job=JobSettings(model=ModelSettings(path="m")))).splitlines()
    assert [line for line in lines if " = " in line and "#" not in line] == []


@pytest.mark.parametrize(
    ("document", "reason", "advice"),
    [
        ({"method": {"kind": ["lora"]}}, "method.kind = ['lora'] is not allowed", "allowed: lora, qlora, full"),
        ({}, "model.path is missing", "a text in quotes that is not empty"),
        ({"modle": {}}, "unknown section [modle]", "model, method"),
        ({**MODEL, "training": {"lr": 1}}, "unknown key training.lr", "learning_rate"),
        ({**MODEL, "training": {"batch_size": 0}}, "training.batch_size = 0", "a whole number at least 1"),
        ({**MODEL, "training": {"batch_size": "4"}}, 'training.batch_size = "4"', "a whole number at least 1"),
        ({**MODEL, "training": {"epochs": True}}, "training.epochs = true", "a whole number"),
        ({**MODEL, "training": {"learning_rate": 2}}, "training.learning_rate = 2", "at most 1"),
        ({**MODEL, "training": {"schedule": "x"}}, 'training.schedule = "x"', '"constant", "linear", "cosine"'),
        ({**MODEL, "method": {"kind": "x"}}, 'method.kind = "x"', "lora, full"),
        (
            {**MODEL, "method": {"kind": "full", "r": 8}},
            'method.r is not available with kind = "full"',
            'belongs to kind = "lora"',
        ),
        ({**MODEL, "data": {"prompt": "q"}}, "belong together", "set both"),
        ({**MODEL, "checkpoints": {"every_steps": 0, "every_seconds": 0}}, "both 0", "at least one"),
        ({**MODEL, "checks": {"rows": {"same_role_twice": "no"}}}, "checks.rows", '"refuse", "warn" or "off"'),
        ({**MODEL, "checks": {"rows": {"broken_json": "off"}}}, "checks.rows has 'broken_json'", "same_role_twice"),
        ({**MODEL, "evaluation": {"gap_alert": 0.1}}, "evaluation.gap_alert = 0.1 is below", "set it to gap_warn"),
        ({"model": 3}, "model must be a table", "[model]"),
    ],
)
def test_what_is_not_allowed_is_named(document: dict[str, Any], reason: str, advice: str) -> None:
    """Key, value, and what would do."""
    with pytest.raises(UserError) as refused:
        parse_config(document, HERE)
    assert reason in refused.value.reason
    assert advice in refused.value.advice


def test_invalid_toml_is_reported_with_its_place(tmp_path: Path) -> None:
    """Line and column come from the parser."""
    path = tmp_path / "keepstep.toml"
    path.write_text("[model\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 1"):
        load_config(path)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("evaluation", "gap_alert", float("inf")),
        ("guard", "spike", float("inf")),
        ("checkpoints", "every_seconds", float("inf")),
        ("disk", "soft_gb", float("inf")),
        ("memory", "grace_s", float("inf")),
        ("hooks", "timeout_s", float("inf")),
        ("consolidation", "space_factor", float("inf")),
    ],
)
def test_infinity_is_not_allowed_where_it_cannot_be_kept(section: str, key: str, value: float) -> None:
    """The journal has no such number: an attempt under it could not be begun, and each daemon would end at once."""
    with pytest.raises(UserError, match=rf"{section}\.{key} = inf is not allowed"):
        parse_config({**MODEL, section: {key: value}}, HERE)


def test_where_nothing_is_journaled_of_it_a_number_may_be_without_end() -> None:
    """`days = inf` keeps backups for ever."""
    config = parse_config({**MODEL, "retention": {"days": float("inf")}, "worker": {"silence_s": float("inf")}}, HERE)
    assert config.retention.days == config.worker.silence_s == float("inf")
