"""The demo's parts, with stand-ins for the processes that need a real model; and the data that is shipped."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli.commands import demo
from cli.config.schema import load_config
from cli.config.template import config_text
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.paths import Home, find_home
from cli.output.console import Console
from core import commands
from core.state import State
from events import kinds, messages
from events.settings import Plan
from journal.storage import Storage

pytestmark = pytest.mark.usefixtures("warm")


def rows() -> list[list[dict[str, str]]]:
    return [json.loads(line)["messages"] for line in demo.DATA.read_text(encoding="utf-8").splitlines()]


class Stage:
    """Stands in for the processes and the daemon: counts what is asked of them, and does it to the home at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[str] = []
        self.daemons = 0
        self.ends_early = False
        monkeypatch.setattr(demo, "_run", self.run)
        monkeypatch.setattr(demo, "_ask", self.ask)
        monkeypatch.setattr(demo, "Daemon", self.daemon)
        monkeypatch.setattr(demo, "find_model", lambda: Path("model.gguf"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def run(self, home: Home, module: str, *arguments: str) -> str:
        self.ran.append(module)
        Path(arguments[1]).mkdir(parents=True)
        return ""

    def ask(self, home: Home, model: str) -> tuple[str, ...]:
        self.ran.append(f"ask {model}")
        return ("a game", "you die") if model == "base" else ("trained", "nothing is lost")

    def daemon(self, home: Home, *, until_idle: bool, write: Callable[[str], None]) -> Any:
        assert until_idle
        self.daemons += 1
        return SimpleNamespace(run=lambda: self.learn(home, write))

    def learn(self, home: Home, write: Callable[[str], None]) -> int:
        write("12:00:00  step 1/36  loss 4.2  lr 1.00e-03  200 tokens/s")
        if not self.ends_early:
            learn_at_once(home)
        return 0


def learn_at_once(home: Home) -> None:
    """What a daemon and its worker would journal, without either."""
    from tests.cli.taking import take_from_inbox

    store = EventStore.open(home)
    try:
        store.execute(commands.StartDaemon(pid=1, process_started_at=0.0, boot_id="", host="", keepstep="0"))
        for path in home.inbox.glob("*.jsonl"):
            take_from_inbox(store, path, "normal")
        job = next(iter(store.state.queue))
        store.execute(commands.StartAttempt(job=job.id, settings=load_config(home.config).job))
        plan = Plan(
            rows=48,
            tokens=3000,
            trained_tokens=1000,
            truncated_rows=0,
            epochs=1,
            steps_per_epoch=1,
            steps_total=1,
            tokenizer_sha256="0" * 64,
            batches_sha256="0" * 64,
        )
        store.execute(messages.Prepared(attempt=1, plan=plan))
        store.execute(messages.Loaded(attempt=1, environment={}))
        store.execute(
            messages.Step(
                attempt=1,
                global_step=1,
                step=1,
                epoch=1,
                loss=1.0,
                grad_norm=1.0,
                learning_rate=1e-3,
                tokens=10,
                seconds=1.0,
            )
        )
        store.execute(
            messages.CheckpointWritten(
                attempt=1,
                checkpoint="step-00000001-attempt-0001",
                global_step=1,
                step=1,
                parent=None,
                size_bytes=1,
                manifest_sha256="0" * 64,
                reason="end",
            )
        )
        store.execute(commands.StopDaemon(reason="nothing is left to do"))
    finally:
        store.close()


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


# -- the data -------------------------------------------------------------------------------------------------------


def test_shipped_rows_are_short_conversations_about_keepstep() -> None:
    """A question, an answer of a sentence or two, perhaps the same once more: easy for a small model."""
    assert 30 <= len(rows()) <= 60
    for turns in rows():
        assert [message["role"] for message in turns] == ["user", "assistant"] * (len(turns) // 2)
        assert turns
        assert "keepstep" in turns[0]["content"].lower()
        for message in turns:
            assert message["content"] == message["content"].strip() != ""
            assert len(message["content"].split()) <= 25


def test_no_question_is_asked_twice() -> None:
    """Two answers to one question would be noise, one answer twice a waste."""
    asked = [turns[0]["content"] for turns in rows()]
    assert len(set(asked)) == len(asked)


def test_second_question_is_not_in_the_data_in_these_words() -> None:
    """So that the demo shows more than a parrot; the first one is."""
    asked = {message["content"] for messages in rows() for message in messages}
    assert demo.QUESTIONS[0] in asked
    assert demo.QUESTIONS[1] not in asked


def test_the_commands_in_the_data_exist() -> None:
    """The training data must be true of this program."""
    from typer.main import get_command

    from cli.app import app

    command: Any = get_command(app)
    text = demo.DATA.read_text(encoding="utf-8")
    for part in text.split("`keepstep ")[1:]:
        words = part.split("`")[0].split()
        assert words[0] in command.commands, words
        if words[0] == "journal":
            assert words[1] in command.commands["journal"].commands, words


# -- the steps ------------------------------------------------------------------------------------------------------


def test_settings_read_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "keepstep.toml"
    path.write_text(config_text(demo.CONFIG), encoding="utf-8")
    assert load_config(path) == demo.CONFIG


def test_first_demo_shows_the_answers_before_and_after(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.run_demo(tmp_path / "home")
    out = capsys.readouterr().out
    assert stage.ran == ["gpu.model.gguf", "ask base", "ask step-00000001-attempt-0001"]
    for shown in ("a game", "you die", "trained", "nothing is lost", "step 1/36", "keepstep status", "PeftModel"):
        assert shown in out


def test_second_demo_shows_the_same_without_doing_anything_again(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.run_demo(tmp_path / "home")
    capsys.readouterr()
    stage.ran.clear()
    demo.run_demo(tmp_path / "home")
    out = capsys.readouterr().out
    assert (stage.ran, stage.daemons) == ([], 1)
    assert "a game" in out
    assert "nothing is lost" in out
    assert not list((tmp_path / "home" / "inbox").glob("*.jsonl"))


def test_stopped_demo_says_so_and_continues_the_next_time(stage: Stage, tmp_path: Path) -> None:
    stage.ends_early = True
    with pytest.raises(UserError, match="was stopped") as caught:
        demo.run_demo(tmp_path / "home")
    assert "continues from there" in caught.value.advice
    stage.ends_early = False
    demo.run_demo(tmp_path / "home")
    assert stage.ran == ["gpu.model.gguf", "ask base", "ask step-00000001-attempt-0001"]  # each once, over both


def test_lost_answers_are_asked_for_again(stage: Stage, tmp_path: Path) -> None:
    demo.run_demo(tmp_path / "home")
    (tmp_path / "home" / "run" / "demo-answers.json").write_text("{", encoding="utf-8")
    demo.run_demo(tmp_path / "home")
    assert sum(each.startswith("ask ") for each in stage.ran) == 4
    assert stage.daemons == 1


def test_home_of_somebody_is_left_alone(stage: Stage, tmp_path: Path) -> None:
    from cli.commands.init import create_home

    create_home(tmp_path, model="some/model")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="not the demo's"):
        demo.run_demo(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_too_little_room_is_said_before_anything_is_written(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Storage, "free_bytes", lambda *_: 10)
    with pytest.raises(UserError, match="too little disk space"):
        demo.run_demo(tmp_path)
    assert stage.ran == []


def test_last_lines_are_commands_that_can_be_copied(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It works in the directory in which the demo was started, also where keepstep is not on PATH."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    demo.run_demo(Path("my home"))
    for line, command in zip(capsys.readouterr().out.splitlines()[-2:], ("chat", "monitor"), strict=True):
        program, *arguments = shlex.split(line)
        assert arguments == [command, "--home", "my home"]
        assert Path(program).name == "keepstep"
        assert find_home(Path(arguments[-1])).root == tmp_path / "my home"


@pytest.mark.parametrize("missing", demo.MODEL_PACKAGES)
def test_missing_package_is_named_with_the_way_to_get_it(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(submodule_search_locations=[])
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name, _=None: None if name == missing else found)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=missing) as caught:
        demo.find_model()
    assert "make demo" in caught.value.advice
    assert "keepstep[demo]" in caught.value.advice


def test_package_without_a_model_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name, _=None: found)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="contains no model"):
        demo.find_model()
    (tmp_path / "small.gguf").touch()
    assert demo.find_model() == tmp_path / "small.gguf"


def test_failed_process_is_reported_with_its_last_line(tmp_path: Path) -> None:
    """No traceback: one sentence, and where the rest is."""
    home = Home(tmp_path)
    home.logs.mkdir()
    with pytest.raises(UserError) as caught:
        demo._run(home, "gpu.model.gguf", str(tmp_path / "none.gguf"), str(tmp_path / "target"))
    assert "none.gguf cannot be unpacked" in caught.value.reason
    assert "demo.log" in caught.value.advice
    assert not (tmp_path / "target").exists()


def test_steps_are_recognised_in_what_the_daemon_says() -> None:
    """The bar reads the narrator's line of a step; this holds the two together."""
    lines: list[str] = []
    event = kinds.StepReached(
        job="0" * 64,
        attempt=1,
        global_step=3,
        step=3,
        epoch=1,
        loss=0.51234,
        grad_norm=1.0,
        learning_rate=1e-3,
        tokens=10,
        seconds=1.0,
    )
    console = Console(lines.append)
    console.print_event(event, State())
    step = demo.ProgressDisplay.STEP.search(lines[0].replace("/?", "/36"))
    assert step is not None
    assert step.groups() == ("3", "36", "0.5123")


# -- the processes --------------------------------------------------------------------------------------------------


def test_unpacked_model_is_never_touched_again(tmp_path: Path) -> None:
    from gpu.model.gguf import unpack

    (tmp_path / "model").mkdir()
    unpack(tmp_path / "none.gguf", tmp_path / "model")
    assert list((tmp_path / "model").iterdir()) == []


def test_unpacked_model_has_the_names_that_transformers_4_knows(tmp_path: Path) -> None:
    """Else neither it nor any version of it could be loaded there."""
    from gpu.model.gguf import use_old_names
    from tests.harness.tiny_model import make_tiny_model

    model = make_tiny_model(tmp_path / "model", rope_theta=5e5)
    use_old_names(model)
    config = json.loads((model / "config.json").read_bytes())
    assert (config["rope_theta"], config["torch_dtype"]) == (5e5, "float32")
    tokenizer = json.loads((model / "tokenizer_config.json").read_bytes())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_next_unpack_deletes_leftovers_of_a_killed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu.model import gguf

    leftover_files = tmp_path / ".staging-model-abc"
    leftover_files.mkdir()
    (leftover_files / "model.safetensors").write_bytes(b"half")

    def convert(source: Path, directory: Path) -> None:
        (directory / "config.json").write_text('{"_model_name_or_path": "x", "hidden_size": 1}', encoding="utf-8")

    monkeypatch.setattr(gguf, "_convert", convert)
    gguf.unpack(tmp_path / "some.gguf", tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert json.loads((tmp_path / "model" / "config.json").read_bytes()) == {"hidden_size": 1}


def test_an_unpacked_model_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a power cut could leave a model of empty files that is never touched again."""
    from gpu.model import gguf

    order: list[str] = []
    monkeypatch.setattr(gguf, "_convert", lambda source, directory: (directory / "config.json").write_text("{}"))
    monkeypatch.setattr(gguf, "fsync_tree", lambda path: order.append("sync"))
    monkeypatch.setattr(gguf, "rename_durably", lambda source, target: order.append("rename"))
    gguf.unpack(tmp_path / "any.gguf", tmp_path / "model")
    assert order == ["sync", "rename"]


def test_two_that_unpack_at_once_leave_each_others_work_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second finds the first's directory held, and does not delete it as a leftover."""
    from gpu.model import gguf

    def convert(source: Path, directory: Path) -> None:
        (directory / "config.json").write_text("{}", encoding="utf-8")
        if source.name == "first.gguf":
            gguf.unpack(tmp_path / "second.gguf", tmp_path / "model")
        assert (directory / "config.json").exists()

    monkeypatch.setattr(gguf, "_convert", convert)
    gguf.unpack(tmp_path / "first.gguf", tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
