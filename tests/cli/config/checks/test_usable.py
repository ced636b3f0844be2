"""A value that is allowed and cannot be used is refused before it is written."""

from __future__ import annotations

import importlib.util
import json
import struct
from pathlib import Path

import pytest

from cli.commands.init import create_home
from cli.config.edit import check, set_keys, value_of
from cli.config.schema import load_config
from cli.errors import UserError
from cli.home.paths import Home

LAYERS = ("model.embed_tokens", "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The files of a model with three layers: enough for what is read before a worker starts."""
    return make_files(tmp_path / "model")


def make_files(directory: Path, value: float = 0.0) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (directory / "tokenizer.json").write_text("{}", encoding="utf-8")
    tensors = {
        f"{name}.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [16 * index, 16 * index + 16]}
        for index, name in enumerate(LAYERS)
    }
    header = json.dumps(tensors).encode()
    weights = struct.pack("<12f", *[value] * 12)
    (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + weights)
    return directory


@pytest.fixture
def home_of_model(tmp_path: Path, model: Path) -> Home:
    return create_home(tmp_path / "home", model=str(model))


@pytest.mark.parametrize(
    ("key", "text", "reason", "advice"),
    [
        ("method.target_modules", "q_prj", "has no layer of that name", "did you mean q_proj"),
        ("method.target_modules", '["q_proj", "gate"]', '"gate"', "embed_tokens, q_proj, v_proj"),
        ("method.target_modules", "q_.*", "is a regular expression for whole names", "write a list"),
        ("data.validation", "nowhere.jsonl", "there is no validation set", "put the file there"),
        ("data.validation", ".", "is not a file", "put the file there"),
        ("hooks.on_held", "no-such-program now", "there is no program no-such-program", "hooks test"),
        ("model.path", "/nowhere/at/all", "there is no model at", "organisation/name"),
        ("model.path", "a/b/c", "there is no model directory", "hub id"),
        ("model.path", "{home}", "has no config.json", "Name a directory with config.json"),
        ("model.path", "{home}/keepstep.toml", "is a file", "directory"),
        ("model.path", "inbox/missing", "there is no model", "organisation/name"),
        ("consolidation.schedule", "3am", 'schedule = "3am"', 'Did you mean "03:00"?'),
    ],
)
def test_what_cannot_be_used_is_not_written(
    home_of_model: Home, key: str, text: str, reason: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `config set`; and by hand it is found by `config check`."""
    monkeypatch.chdir(home_of_model.root)
    before = home_of_model.config.read_bytes()
    with pytest.raises(UserError) as refused:
        set_keys(home_of_model, {key: text.format(home=home_of_model.root)})
    assert reason in refused.value.reason
    assert advice in refused.value.advice
    assert home_of_model.config.read_bytes() == before


@pytest.mark.parametrize(
    "text", ["q_proj", "self_attn.q_proj,v_proj", "lm_head", ".*_proj", r"model\.layers\.0\..*", "all-linear"]
)
def test_layers_of_the_model_are_accepted(home_of_model: Home, text: str) -> None:
    """Also a head that is tied to the embedding, which no file has."""
    set_keys(home_of_model, {"method.target_modules": text})


def test_another_model_is_checked_with_the_layers_that_are_set(home_of_model: Home, tmp_path: Path) -> None:
    """The keys depend on each other: so both are named."""
    set_keys(home_of_model, {"method.target_modules": "q_proj"})
    other = make_files(tmp_path / "other")
    weights = (other / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(weights.replace(b"q_proj", b"c_attn"))
    with pytest.raises(UserError, match=r'target_modules has "q_proj".*other has no layer'):
        set_keys(home_of_model, {"model.path": str(other)})
    set_keys(home_of_model, {"model.path": str(other), "method.target_modules": "c_attn"})


def test_a_path_from_here_is_found_from_the_home(
    home_of_model: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It becomes absolute, as with `init`; one below the home stays relative."""
    monkeypatch.chdir(tmp_path)
    make_files(tmp_path / "other")
    (tmp_path / "held.jsonl").touch()
    (home_of_model.root / "own.jsonl").touch()
    set_keys(home_of_model, {"model.path": "other", "data.validation": "held.jsonl"})
    config = load_config(home_of_model.config)
    assert value_of(config, "model.path") == str(tmp_path / "other")
    assert value_of(config, "data.validation") == str(tmp_path / "held.jsonl")
    set_keys(home_of_model, {"data.validation": "own.jsonl"})
    assert value_of(load_config(home_of_model.config), "data.validation") == "own.jsonl"


def test_check_names_everything_and_other_keys_can_be_set_meanwhile(home_of_model: Home) -> None:
    """What was wrong before does not stop the repair of something else, and is said again."""
    text = home_of_model.config.read_text(encoding="utf-8")
    broken = text.replace('"all-linear"', '["gate"]').replace('\non_held = ""', '\non_held = "no-such-program"')
    home_of_model.config.write_text(broken, encoding="utf-8")
    with pytest.raises(UserError, match="has 2 problems") as refused:
        check(home_of_model)
    assert "no-such-program" in refused.value.reason
    changed = set_keys(home_of_model, {"hooks.on_held": ""})
    assert [note for note in changed.notes if "still wrong" in note and "gate" in note]


def test_a_report_whose_package_is_missing_is_refused_with_its_command(
    home_of_model: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else real(name))
    with pytest.raises(UserError, match=r'report\.to has "wandb"') as refused:
        set_keys(home_of_model, {"report.to": '["wandb"]'})
    assert "pip install 'keepstep[wandb]'" in (refused.value.advice or "")
    assert load_config(home_of_model.config).report.to == ()
