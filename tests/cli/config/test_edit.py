"""Single keys of keepstep.toml: changed in their place, or refused with what to do."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.app import app
from cli.config.edit import KeyChange, check, read_text, replace_text, set_keys, unset_keys, value_of
from cli.config.locks import locked_keys
from cli.config.schema import load_config
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from core import commands
from journal import durable
from tests.harness.locks import is_locked
from tests.harness.syncs import Syncs
from tests.harness.tiny_model import make_model_files


def set_key(home: Home, key: str, text: str) -> KeyChange:
    return next(each for each in set_keys(home, {key: text}).keys if each.key == key)


Run = Callable[..., list[str]]
Drop = Callable[..., Path]


def test_a_value_is_changed_in_its_place_and_comments_stay(home: Home) -> None:
    """Nothing else in the file moves."""
    before = home.config.read_text(encoding="utf-8").splitlines()
    edited = set_key(home, "training.learning_rate", "1e-4")
    after = home.config.read_text(encoding="utf-8").splitlines()
    assert (edited.before, edited.now, edited.applies) == ("0.0002", "0.0001", "from the next job on")
    assert [line for line in after if line not in before] == ["learning_rate = 0.0001 # peak learning rate"]
    set_key(home, "training.epochs", "2")
    assert "epochs = 2 # passes over each file" in home.config.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("method.target_modules", '["q_proj"]', ("q_proj",)),
        ("method.target_modules", "q_proj", ("q_proj",)),
        ("method.target_modules", "q_proj,v_proj", ("q_proj", "v_proj")),
        ("method.target_modules", ".*_proj", ".*_proj"),
        ("training.weight_decay", ".5", 0.5),
        ("data.prompt", "123", None),
        ("consolidation.schedule", "03:00", "03:00"),
        ("model.path", "3", "3"),
        ("data.packing", "true", True),
    ],
)
def test_a_text_may_go_without_its_quotes(home: Home, key: str, text: str, value: object) -> None:
    """Read as TOML where that is allowed there, and as it stands where only a text is; not if neither fits."""
    if value is None:  # a prompt without a completion is refused, however it is written
        with pytest.raises(UserError, match="belong together"):
            set_key(home, key, '"question"')
        return
    make_model_files(home.root / "3")
    set_key(home, key, text)
    assert value_of(load_config(home.config), key) == value


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("training.epochs", "0", r"training.epochs = 0 is not allowed"),
        ("training.epoch", "1", r"unknown key training.epoch"),
        ("nothing.at_all", "1", r"unknown section \[nothing\]"),
        ("training", "1", "not a key"),
        ("memory.resume_below", "0.9", "is not below hold_above"),
    ],
)
def test_what_is_not_allowed_is_not_written(home: Home, key: str, text: str, says: str) -> None:
    """The file stays byte for byte what it was."""
    before = home.config.read_bytes()
    with pytest.raises(UserError, match=says):
        set_key(home, key, text)
    assert home.config.read_bytes() == before


@pytest.mark.parametrize(
    ("key", "text", "current", "trained"),
    [
        ("method.r", "8", "16", "16"),
        ("method.kind", "full", '"lora"', '"lora"'),
        ("data.max_length", "2048", "1024", "1024"),
    ],
)
def test_what_weights_mean_is_locked_while_no_version_holds_them(
    home: Home, drop: Drop, run: Run, key: str, text: str, current: str, trained: str
) -> None:
    """With the value of the file, that of the weights, why, and what to do."""
    drop("a.jsonl", "ok")
    run()
    before = home.config.read_bytes()
    with pytest.raises(
        UserError, match=f"{key} is locked and was not changed: it is ({current}) .* have {trained}"
    ) as refused:
        set_key(home, key, text)
    assert home.config.read_bytes() == before
    assert "keepstep" in refused.value.advice
    assert key in locked_keys(load_state(home)[0].state, load_config(home.config))


def test_another_model_does_not_keep_the_commit_of_the_one_before(home: Home, tmp_path: Path) -> None:
    """A directory has no commits."""
    model, text = make_model_files(tmp_path / "other"), home.config.read_text(encoding="utf-8")
    pinned = text.replace('path = "nowhere"', f'path = "org/name"\nrevision = "{"1" * 40}"')
    assert pinned != text
    home.config.write_text(pinned, encoding="utf-8")
    set_key(home, "model.path", str(model))
    found = load_config(home.config).job.model
    assert (found.path, found.revision) == (str(model), "")


def test_harmless_keys_are_never_locked(home: Home, drop: Drop, run: Run) -> None:
    """How fast, how often, how much is kept; and whether code may run."""
    drop("a.jsonl", "ok")
    run()
    for key, text in [("training.learning_rate", "1e-5"), ("checkpoints.keep", "7"), ("disk.soft_gb", "1")]:
        set_key(home, key, text)
    set_key(home, "model.trust_remote_code", "true")
    assert "fits the trained weights" in check(home)


def test_a_version_unlocks_shape_and_length_and_not_the_model(home: Home, drop: Drop, run: Run) -> None:
    """A new adapter on the version may have another shape, but the same model, or a copy: the base is compared."""
    drop("a.jsonl", "ok")
    run()
    store = EventStore.open(home)
    store.execute(commands.RequestConsolidation(description=""))
    store.close()
    run()
    set_key(home, "method.r", "8")
    set_key(home, "data.max_length", "2048")
    make_model_files(home.root / "other")
    with pytest.raises(UserError, match=r"model\.path is locked") as refused:
        set_key(home, "model.path", "other")
    assert "put the base back" in refused.value.advice


def test_an_edit_by_hand_is_found_by_check(home: Home, drop: Drop, run: Run) -> None:
    """With the way out of it."""
    drop("a.jsonl", "ok")
    run()
    text = home.config.read_text(encoding="utf-8")
    home.config.write_text(text.replace("r = 16", "r = 8"), encoding="utf-8")
    with pytest.raises(UserError, match=r"method\.r is 8, and the weights were trained with 16") as refused:
        check(home)
    assert "keepstep consolidate" in refused.value.advice


def test_changes_at_the_same_time_are_all_kept(home: Home) -> None:
    """Each reads what the others wrote: it reads under the lock."""
    keys = {"training.epochs": "3", "training.batch_size": "2", "checkpoints.keep": "5", "logs.days": "9"}
    commands = [
        subprocess.Popen(
            [sys.executable, "-m", "cli", "config", "set", key, value, "--home", str(home.root)],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
            stdout=subprocess.DEVNULL,
        )
        for key, value in keys.items()
    ]
    assert [command.wait() for command in commands] == [0, 0, 0, 0]
    config = load_config(home.config)
    assert {key: str(value_of(config, key)) for key in keys} == keys


@pytest.mark.parametrize(
    "change",
    [
        lambda home: set_keys(home, {"training.epochs": "2"}),
        lambda home: unset_keys(home, ["training.seed"]),
        lambda home: replace_text(home, text := read_text(home), text.replace("epochs = 1", "epochs = 2")),
    ],
)
def test_a_change_is_locked_and_survives_a_power_cut(
    change: Callable[[Home], object], home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No job starts with settings that are replaced now."""
    syncs, write, locks = Syncs(monkeypatch), durable.write_atomically, []

    def written(path: Path, *arguments: Any, **options: Any) -> None:
        locks.append(is_locked(home.journal / "lock"))
        write(path, *arguments, **options)

    monkeypatch.setattr(durable, "write_atomically", written)
    before = home.config.read_bytes()
    change(home)
    assert home.config.read_bytes() != before
    assert locks == [True]
    assert syncs.lacks(home.config) == []


def test_a_change_is_made_to_what_is_there_when_the_lock_is_had(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another command wrote while this one waited."""
    open_store = EventStore.open

    def while_it_waits(where: Home) -> EventStore:
        text = home.config.read_text(encoding="utf-8")
        home.config.write_text(text.replace("epochs = 1 ", "epochs = 4 "), encoding="utf-8")
        return open_store(where)

    monkeypatch.setattr(EventStore, "open", while_it_waits)
    set_key(home, "logs.days", "9")
    assert (value_of(load_config(home.config), "training.epochs"), value_of(load_config(home.config), "logs.days")) == (
        4,
        9,
    )


def keepstep(home: Home, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["config", *arguments, "--home", str(home.root)])


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        (["training.epochs=2", "data.packing=true"], {"training.epochs": 2, "data.packing": True}),
        (["training.epochs", "2"], {"training.epochs": 2}),
        (["training.epochs", "=", "2"], {"training.epochs": 2}),
        (["data.prompt=q", "data.completion=a"], {"data.prompt": "q", "data.completion": "a"}),
        (
            ["evaluation.gap_alert=2", "evaluation.gap_warn=1"],
            {"evaluation.gap_alert": 2.0, "evaluation.gap_warn": 1.0},
        ),
        (["checkpoints.every_steps=0", "checkpoints.every_seconds=5"], {"checkpoints.every_steps": 0}),
        (["memory.resume_below=0.1", "memory.hold_above=0.2"], {"memory.hold_above": 0.2, "memory.resume_below": 0.1}),
        (["hooks.on_held", "sh -c 'A=1 true'"], {"hooks.on_held": "sh -c 'A=1 true'"}),
        (["training.betas=0.8, 0.95"], {"training.betas": (0.8, 0.95)}),
    ],
)
def test_keys_that_belong_together_change_together(
    home: Home, arguments: list[str], changed: dict[str, object]
) -> None:
    """In whatever order, and in the old form for one key."""
    said = keepstep(home, "set", *arguments)
    assert said.exit_code == 0, said.output
    assert {key: value_of(load_config(home.config), key) for key in changed} == changed


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["training.epochs", "-1"], 1, "training.epochs = -1 is not allowed"),
        (["training.epochs=-1"], 1, "training.epochs = -1 is not allowed"),
        (["--epochs", "1"], 2, "no such option: --epochs"),
        (["training.epochs"], 2, "has no value"),
        (["training.epochs", "2", "logs.days", "3"], 2, "training.epochs=2"),
        (["training.epochs=2", "training.epochs=3"], 2, "is set twice"),
        (["training.epochs=2", "logs.days=0"], 1, "logs.days = 0 is not allowed"),
        (["num_train_epochs=2"], 1, "keepstep config set training.epochs=2"),
        (["method.kind=qlora", "method.use_dora=true"], 1, "use_dora is not available with kind"),
    ],
)
def test_a_wrong_command_changes_nothing(home: Home, arguments: list[str], code: int, says: str) -> None:
    """Not even the keys that are right."""
    before = home.config.read_bytes()
    said = keepstep(home, "set", *arguments)
    assert (said.exit_code or (1 if said.exception else 0)) == code
    assert says in " ".join((said.output + str(getattr(said.exception, "advice", "")) + str(said.exception)).split())
    assert home.config.read_bytes() == before


def test_a_text_that_may_be_missing_is_unset(home: Home) -> None:
    """By `unset`, by an empty text, and in the file itself."""
    (home.root / "held.jsonl").touch()
    before = home.config.read_text(encoding="utf-8")
    for unset in (["set", "data.validation", ""], ["set", "data.validation="], ["unset", "data.validation"]):
        assert keepstep(home, "set", "data.validation=held.jsonl").exit_code == 0
        assert 'validation: "held.jsonl" → not set' in keepstep(home, *unset).output
        assert home.config.read_text(encoding="utf-8") == before
    home.config.write_text(before.replace("[data]\n", '[data]\nvalidation = ""\n'), encoding="utf-8")
    assert load_config(home.config).job.data.validation is None


def test_unset_takes_the_default_back_and_a_required_key_stays(home: Home) -> None:
    keepstep(home, "set", "training.epochs=4", "logs.days=9")
    assert "training.epochs: 4 → 1" in keepstep(home, "unset", "training.epochs", "logs.days").output
    assert "# epochs = 4 # passes over each file" in home.config.read_text(encoding="utf-8")
    assert "model.path is missing" in str(keepstep(home, "unset", "model.path").exception)
    assert keepstep(home, "unset", "logs.days").output == "logs.days is 30, as before\n"


def test_another_method_and_back_loses_nothing(home: Home) -> None:
    """The file is then byte for byte what it was."""
    keepstep(home, "set", "method.r=4", "method.target_modules=q_proj,v_proj")
    before = home.config.read_bytes()
    for kind in ("full", "qlora", "full"):
        assert keepstep(home, "set", f"method.kind={kind}").exit_code == 0
        assert load_config(home.config)
    assert keepstep(home, "set", "method.kind", "lora").exit_code == 0
    assert home.config.read_bytes() == before


def test_a_wrong_file_can_be_repaired_key_by_key(home: Home) -> None:
    """As long as it is TOML; the last repair makes it whole."""
    text = home.config.read_text(encoding="utf-8")
    home.config.write_text(text.replace("epochs = 1 ", "epochs = 0 "), encoding="utf-8")
    (changed,) = set_keys(home, {"training.epochs": "1"}).keys
    assert (changed.before, changed.now) == ("0", "1")
    assert home.config.read_text(encoding="utf-8") == text


def test_show_fits_a_terminal(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long path keeps its beginning and its end; in a pipe nothing is shortened."""
    path = f"/home/someone/{'x' * 200}/the-model"
    text = home.config.read_text(encoding="utf-8")
    home.config.write_text(text.replace('path = "nowhere"', f'path = "{path}"'), encoding="utf-8")
    assert f'"{path}"' in keepstep(home, "show").output
    assert doctest.testmod(sys.modules["cli.commands.config"]).failed == 0
    monkeypatch.setenv("COLUMNS", "80")
    shown = subprocess.run(
        [sys.executable, "-c", SHOW_ON_A_TERMINAL, "config", "show", "--home", str(home.root)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert 'the-model"' in shown
    assert '"/home/some' in shown


SHOW_ON_A_TERMINAL = "import sys; sys.stdout.isatty = lambda: True; from cli.app import app; app()"
