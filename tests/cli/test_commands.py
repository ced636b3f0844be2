"""The commands as people type them: what they say, and how they end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.main import get_command

from cli.app import PANELS, app
from cli.home.identity import DaemonLock, this_process
from cli.home.paths import Home
from cli.status.fast import plain_status
from tests.harness.command import run_forked
from tests.harness.tiny_model import make_model_files

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-P", "-c", "from cli.main import main; main()"]


def keepstep(*arguments: str, home: Home | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200"}
    environment.pop("KEEPSTEP_HOME", None)
    if home is not None:
        environment["KEEPSTEP_HOME"] = str(home.root)
    return run_forked(arguments, environment, cwd)


def test_a_new_home_says_what_to_do_next(tmp_path: Path) -> None:
    """And is not made twice."""
    model = str(make_model_files(tmp_path / "m"))
    made = keepstep("init", str(tmp_path / "h"), "--model", model)
    assert made.returncode == 0
    assert "keepstep run" in made.stdout
    assert (tmp_path / "h" / "keepstep.toml").exists()
    again = keepstep("init", str(tmp_path / "h"), "--model", model)
    assert again.returncode == 1
    assert "is a home already" in again.stderr


def test_a_new_home_says_at_once_what_its_model_cannot_take(tmp_path: Path) -> None:
    """And is made all the same: rows without these tokens are fine. Its length is taken from the model."""
    model = make_model_files(tmp_path / "m", model_type="gpt2", vocab_size=2, n_positions=64)
    (model / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0, "b": 1, "c": 2}}}', encoding="utf-8")
    made = keepstep("init", str(tmp_path / "h"), "--model", str(tmp_path / "m"))
    assert made.returncode == 0
    assert "the tokenizer has 3 tokens, and the embedding of the model has 2 rows" in made.stderr
    assert "max_length = 64" in (tmp_path / "h" / "keepstep.toml").read_text(encoding="utf-8")


def test_a_model_directory_is_named_from_where_the_person_stands(tmp_path: Path) -> None:
    """A relative path would mean something else in the home; one that is not there is said at once."""
    make_model_files(tmp_path / "models" / "mine")
    assert keepstep("init", "h", "--model", "models/mine", cwd=tmp_path).returncode == 0
    assert f'path = "{tmp_path}/models/mine"' in (tmp_path / "h" / "keepstep.toml").read_text(encoding="utf-8")
    assert keepstep("init", "i", "--model", f"hub/id@{'1' * 40}", cwd=tmp_path).returncode == 0
    missing = keepstep("init", "j", "--model", "./nope", cwd=tmp_path)
    assert missing.returncode == 1
    assert "no model directory" in missing.stderr
    assert not (tmp_path / "j").exists()


def test_the_home_is_found_upwards(home: Home, tmp_path: Path) -> None:
    """As git finds its repository; outside, the message says how to get one."""
    assert keepstep("queue", cwd=home.inbox / "high").stdout == "no file waits\n"
    outside = keepstep("queue", cwd=tmp_path)
    assert outside.returncode == 1
    assert "keepstep init" in outside.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stop"], "no daemon runs"),
        (["resume"], "not paused"),
        (["skip"], "no job is in progress"),
        (["skip", "nope"], "there is no unfinished job nope"),
        (["retry", "nope"], "there is no unfinished job nope"),
        (["add", "nope.jsonl"], "does not exist; nothing was added"),
        (["journal", "show", "99"], "no record matches"),
        (["journal", "repair"], "not damaged"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(arguments: list[str], message: str, home: Home) -> None:
    """Exit code 1, one sentence on stderr, no traceback, nothing on stdout."""
    done = keepstep(*arguments, home=home)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "accepted"),
    [
        (["nonsense"], ""),
        (["status", "--nonsense"], ""),
        (["add"], ""),
        (["journal", "tail", "-n", "x"], ""),
        (["logs", "--level", "loud"], "'debug', 'info', 'warning', 'error', 'critical'"),
        (["logs", "--source", "x"], "'daemon', 'worker', 'hook'"),
        (["add", "x", "--priority", "x"], "'high', 'normal', 'low'"),
        (["checkpoints", "export", "--to", "x", "--dtype", "int4"], "'float32', 'bfloat16', 'float16'"),
        (["hooks", "test", "x"], "job_finished, job_rejected"),
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str], accepted: str, home: Home) -> None:
    """Usage is not refusal. A wrong value lists the accepted ones."""
    done = keepstep(*arguments, home=home)
    assert done.returncode == 2
    assert accepted in done.stderr


@pytest.mark.parametrize("group", ["versions", "checkpoints", "backup", "queue", "hooks", "config", "journal"])
def test_a_group_without_a_command_lists(group: str, home: Home) -> None:
    """`-h` prints its help. Options may stand before the command."""
    listed, helped = keepstep(group, home=home), keepstep(group, "-h")
    assert (listed.returncode, helped.returncode) == (0, 0)
    assert listed.stdout
    assert "Usage: keepstep" in helped.stdout
    assert keepstep("--home", str(home.root), group).stdout == listed.stdout


def test_the_version_is_printed() -> None:
    assert re.fullmatch(r"keepstep \d+\.\d+\.\d+\n", keepstep("--version").stdout)


def test_commands_are_durable_without_a_daemon(home: Home, tmp_path: Path) -> None:
    """What returned 0 is in the journal, and in the status file."""
    (tmp_path / "a.jsonl").write_text("ok\n", encoding="utf-8")
    assert keepstep("add", str(tmp_path / "a.jsonl"), "--priority", "high", home=home).returncode == 0
    assert keepstep("pause", home=home).returncode == 0
    kinds = [
        json.loads(line)["event"]["kind"]
        for line in keepstep("journal", "tail", "--json", home=home).stdout.splitlines()
    ]
    assert kinds == ["home_created", "file_enqueued", "pause_requested"]
    status = json.loads(home.status.read_bytes())
    assert status["seq"] == 3
    assert status["queue"]["next"][0]["name"] == "a.jsonl"
    listed = json.loads(keepstep("queue", "--json", home=home).stdout)
    assert [(job["name"], job["priority"]) for job in listed] == [("a.jsonl", "high")]


def test_status_distinguishes_a_living_daemon_from_a_dead_one(
    home: Home, drop: Callable[..., Path], run: Callable[..., list[str]]
) -> None:
    """A journal that ends in the middle of training, and nobody who holds the lock: nothing trains."""
    from cli.home.event_store import EventStore
    from core import commands

    drop("a.jsonl", "ok")
    run()
    store = EventStore.open(home)
    store.execute(commands.StartDaemon(pid=os.getpid(), process_started_at=1.0, boot_id="", host="", keepstep=""))
    store.execute(commands.AddFile(job="e" * 64, name="b.jsonl", size_bytes=1, priority="normal", known=False))
    settings = store.state.recovery.replay_ranges[-1].job.settings
    assert settings is not None
    store.execute(commands.StartAttempt(job="e" * 64, settings=settings))
    store.close()
    dead = json.loads(keepstep("status", "--json", home=home).stdout)
    assert dead["alive"] is False
    assert dead["job"]["status"] == "interrupted"
    assert "not running" in dead["health"]
    assert "training" not in keepstep("status", home=home).stdout
    lock = DaemonLock(home)
    lock.take(this_process())
    assert json.loads(keepstep("status", "--json", home=home).stdout)["health"] == "preparing b.jsonl"
    lock.release()


def test_the_quick_status_and_the_parsed_one_agree(home: Home) -> None:
    """Two readers of the same options."""
    quick = keepstep("status", "--json", home=home).stdout
    from typer.testing import CliRunner

    from cli.app import app

    parsed = CliRunner().invoke(app, ["status", "--json", "--home", str(home.root)])
    one, other = json.loads(quick), json.loads(parsed.output)
    assert one.pop("machine").keys() == other.pop("machine").keys()  # measured at two moments
    assert one == other
    assert plain_status(["status", "--home", "x", "--json"]) == (Path("x"), True)
    assert plain_status(["status", "--home=x"]) == (Path("x"), False)
    for other in (["status", "--help"], ["status", "--watch"], ["status", "--home"], ["status", "x"], ["queue"], []):
        assert plain_status(other) is None


def test_replay_rebuilds_every_view_from_the_first_record(
    home: Home, drop: Callable[..., Path], run: Callable[..., list[str]]
) -> None:
    """Views that were deleted or spoiled come back as they were."""
    drop("a.jsonl", "ok ok")
    run()
    status = json.loads(home.status.read_bytes())
    home.status.write_bytes(b"spoiled")
    home.snapshot.unlink()
    done = keepstep("journal", "replay", home=home)
    assert done.returncode == 0
    assert "verdict   clean" in done.stdout
    again = json.loads(home.status.read_bytes())
    for view in (status, again):
        view["daemon"]["heartbeat_at"] = view["check"] = 0  # when it was written, and the seal over that
    assert again == status


def test_a_damaged_journal_is_refused_with_3_and_repaired_only_on_request(
    home: Home, drop: Callable[..., Path], run: Callable[..., list[str]]
) -> None:
    """One flipped byte: every command refuses and says where; repair keeps the bytes and continues."""
    drop("a.jsonl", "ok ok ok ok")
    run()
    segment = home.journal / "00000001.jsonl"
    data = bytearray(segment.read_bytes())
    at = data.index(b"step_reached") + 2
    data[at] ^= 1
    segment.write_bytes(data)
    home.snapshot.unlink()
    for command in (
        ["pause"],
        ["run", "--until-idle"],
        ["journal", "verify"],
        ["journal", "replay"],
        ["journal", "repair"],
    ):
        done = keepstep(*command, home=home)
        assert done.returncode == 3, command
        assert "00000001.jsonl" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    assert segment.read_bytes() == bytes(data)
    repaired = keepstep("journal", "repair", "--accept-loss", home=home)
    assert repaired.returncode == 0, repaired.stderr
    assert "dropped" in repaired.stdout
    assert segment.read_bytes() == bytes(data)
    assert keepstep("journal", "verify", home=home).returncode == 0
    run()


def test_the_journal_command_stands_alone(home: Home) -> None:
    """`journal verify` is `keepstep journal verify`."""
    alone = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            "from cli.commands.journal import main; main()",
            "verify",
            "--home",
            str(home.root),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert alone.stdout == keepstep("journal", "verify", home=home).stdout
    assert alone.returncode == 0


def test_every_command_is_in_the_reference() -> None:
    """`docs/reference/commands.md` has a section for each command, and no section for anything else."""
    page = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## `keepstep ([a-z-]+)", page, flags=re.MULTILINE)
    assert set(sections) == _visible_commands()


def test_the_readme_names_only_commands_that_exist() -> None:
    """In its examples, in code within its text, and in its table of commands."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    examples, text = "".join(re.findall(r"```.*?```", readme, flags=re.DOTALL)), re.sub(r"(?s)```.*?```", "", readme)
    rows = " ".join(re.findall(r"^\| (`keepstep .*?) \|", text, flags=re.MULTILINE))
    named = {
        *re.findall(r"^keepstep ([a-z]+)", examples, flags=re.MULTILINE),
        *re.findall(r"`keepstep ([a-z]+)", text),
        *re.findall(r"`([a-z]+)`", rows),  # `keepstep pause`, `resume`, `stop`
    }
    assert {"init", "run", "queue", "resume"} <= named
    assert named - _visible_commands() == set()


def _visible_commands() -> set[str]:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    return {name for name, command in commands.items() if not command.hidden}


@pytest.mark.parametrize("asked", [("status",), ("config", "show")])
def test_closed_output_gives_no_traceback(home: Home, asked: tuple[str, ...]) -> None:
    """`keepstep status | head -1`."""
    command = [sys.executable, "-P", "-m", "cli", *asked, "--home", str(home.root)]
    reading, writing = os.pipe()
    os.close(reading)
    ran = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (0, b"")  # its own, however fast the reader left


def test_help_is_a_table_of_contents() -> None:
    """Each command that is not hidden is in one panel, in the order of the panels."""
    shown = keepstep("--help").stdout
    names = re.findall(r"^│ ([a-z][a-z-]*) ", shown, flags=re.MULTILINE)
    assert names == [name for panel in PANELS.values() for name in panel if name in _visible_commands()]
    assert [panel for panel in PANELS if panel in shown] == list(PANELS)
    hidden = {name for name, command in get_command(app).commands.items() if command.hidden}  # type: ignore[attr-defined]
    assert hidden == {"crashes"}
