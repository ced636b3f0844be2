"""`keepstep checkpoints`: what is committed, and whether it is still what was committed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

import cli.commands.checkpoints
from cli.app import app
from cli.commands.checkpoints import Verified, find_checkpoint, recovery_text
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from core.errors import Refused
from core.values import Checkpoint
from gpu.artifacts.artifact import CheckpointDirectory
from tests.core.topics.test_recovery import ALL, KEPT, world_with_quarantined
from tests.gpu.helpers import NAME, manifest, safetensors

Run = Callable[..., list[str]]


def keepstep(home: Home, *arguments: str) -> tuple[int, str]:
    """Exit code and output."""
    ended = CliRunner().invoke(app, [*arguments, "--home", str(home.root)])
    return ended.exit_code, ended.output


@pytest.fixture
def committed(home: Home, drop: Callable[..., Path], run: Run) -> tuple[Checkpoint, ...]:
    """Two that were kept, of seven steps of the fake worker; the first is pruned."""
    drop("a.jsonl", "ok ok ok ok ok ok ok")
    run()
    return load_state(home)[0].state.head.checkpoints


def spoil(home: Home, checkpoint: Checkpoint) -> None:
    path = home.checkpoints / checkpoint.id / "weights"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")


def test_without_a_word_more_it_lists(home: Home, committed: tuple[Checkpoint, ...]) -> None:
    code, said = keepstep(home, "checkpoints")
    assert code == 0
    assert [line.split()[0] for line in said.splitlines()] == ["step", "6", "7"]
    listed = json.loads(keepstep(home, "checkpoints", "--json")[1])
    assert [each["id"] for each in listed] == [each.id for each in committed]


def test_each_is_found_by_its_name_and_the_head_without_one(home: Home, committed: tuple[Checkpoint, ...]) -> None:
    state = load_state(home)[0].state
    assert [find_checkpoint(state, each.id) for each in committed] == list(committed)
    assert find_checkpoint(state, None) == committed[-1]


def test_a_home_without_checkpoints_says_so_and_is_good(home: Home) -> None:
    assert keepstep(home, "checkpoints") == (0, "nothing was trained since the origin, so there is no checkpoint\n")
    assert keepstep(home, "checkpoints", "verify") == (
        0,
        "nothing was trained since the origin, so there is no checkpoint\n",
    )


def test_intact_checkpoints_verify(home: Home, committed: tuple[Checkpoint, ...]) -> None:
    code, said = keepstep(home, "checkpoints", "verify", "--deep")
    assert (code, said.splitlines()) == (0, [f"{each.id}  good" for each in committed])
    code, said = keepstep(home, "checkpoints", "--json", "verify")
    report = json.loads(said)
    assert (code, report["good"], report["recovery"]) == (0, True, None)
    assert [each["id"] for each in report["checkpoints"]] == [each.id for each in committed]


def test_damaged_head_is_named_with_what_the_daemon_does(home: Home, committed: tuple[Checkpoint, ...]) -> None:
    """And nothing is changed by looking."""
    older, head = committed
    spoil(home, head)
    before = home.journal.stat().st_mtime_ns, sorted(home.root.rglob("*"))
    code, said = keepstep(home, "checkpoints", "verify")
    assert code == 1
    assert said.splitlines() == [
        f"{older.id}  good",
        f"{head.id}  weights does not have the SHA-256 of the manifest",
        f"  → at its next start the daemon moves {head.id} to quarantine/ and runs step 7 again from "
        f"{older.id}, to the same bits",
    ]
    assert (home.journal.stat().st_mtime_ns, sorted(home.root.rglob("*"))) == before
    code, said = keepstep(home, "checkpoints", "verify", "--json")
    assert code == 1
    assert [each["problem"] is None for each in json.loads(said)["checkpoints"]] == [True, False]


def test_one_that_is_gone_is_bad(home: Home, committed: tuple[Checkpoint, ...]) -> None:
    shutil.rmtree(home.checkpoints / committed[0].id)
    code, said = keepstep(home, "checkpoints", "verify")
    assert code == 1
    assert f"{committed[0].id}  its directory is missing" in said
    assert "nothing is lost" in said


def test_checkpoint_pruned_while_it_is_read_is_no_error(
    home: Home, committed: tuple[Checkpoint, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    older, head = committed
    state = load_state(home)[0].state
    states = [
        state,
        *[msgspec.structs.replace(state, head=msgspec.structs.replace(state.head, checkpoints=(head,)))] * 2,
    ]
    monkeypatch.setattr(cli.commands.checkpoints, "read_state", lambda _: states.pop(0))
    shutil.rmtree(home.checkpoints / older.id)
    code, said = keepstep(home, "checkpoints", "verify")
    assert (code, said) == (0, f"{head.id}  good\n")


def test_deep_finds_nan_with_valid_hashes(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that were not numbers already when they were written."""
    trained = msgspec.structs.replace(manifest(), parameters=(("a", (2,)),))
    moments = {"a.exp_avg": (2,), "a.exp_avg_sq": (2,), "step": (1,)}
    files = {
        "model.safetensors": safetensors({"a": (2,)}, float("nan")),
        "optimizer.safetensors": safetensors(moments),
    }
    done = CheckpointDirectory(home.checkpoints / NAME).write(files, trained.with_files)
    one = checkpoint(3, None, id=NAME, manifest_sha256=done.manifest_sha256)
    state = load_state(home)[0].state
    state = msgspec.structs.replace(state, head=msgspec.structs.replace(state.head, checkpoints=(one,)))
    monkeypatch.setattr(cli.commands.checkpoints, "read_state", lambda _: state)
    assert keepstep(home, "checkpoints", "verify") == (0, f"{NAME}  good\n")
    code, said = keepstep(home, "checkpoints", "verify", "--deep")
    assert code == 1
    assert said.startswith(f"{NAME}  model.safetensors: a is not finite\n")


def checkpoint(step: int, parent: str | None, **other: Any) -> Checkpoint:
    fields: dict[str, Any] = {
        "id": f"c{step}",
        "job": "0" * 64,
        "attempt": 1,
        "global_step": step,
        "step": step,
        "parent": parent,
        "size_bytes": 1,
        "manifest_sha256": "",
    }
    return Checkpoint(**{**fields, **other})


@pytest.mark.parametrize(
    ("pruned", "bad", "says"),
    [
        (True, [], None),
        (True, [8], "moves 8 to quarantine/; nothing is lost: 14, which the next step starts from, is good"),
        (True, [14], "moves 14 to quarantine/ and runs steps 13 to 14 again from 12, to the same bits"),
        (True, [10, 12, 14], "moves 10, 12, 14 to quarantine/ and runs steps 9 to 14 again from 8,"),
        (True, [8, 12, 14], "moves 8, 12, 14 to quarantine/ and runs steps 11 to 14 again from 10,"),
        (False, [2, 4, 6, 8, 10, 12, 14], "to quarantine/ and runs steps 1 to 14 again from the base model,"),
        (True, [8, 10, 12, 14], "no good checkpoint is left, and the daemon will wait for you: restore"),
    ],
)
def test_recovery_text_says_what_the_state_machine_does(pruned: bool, bad: list[int], says: str | None) -> None:
    state = world_with_quarantined(KEPT if pruned else ALL, [], pruned=pruned).state
    found = [Verified(each, "rot" if each.global_step in bad else None) for each in state.head.checkpoints]
    then = recovery_text(state, found)
    for each in state.head.checkpoints:
        then = then and then.replace(each.id, str(each.global_step))
    assert then is None if says is None else says in str(then)


# -- prune ----------------------------------------------------------------------------------------------------------


def test_prune_deletes_older_checkpoints_and_keeps_the_head(
    home: Home, committed: tuple[Checkpoint, ...], run: Run
) -> None:
    older, head = committed
    code, said = keepstep(home, "checkpoints", "prune", "--keep", "1")
    assert (code, said) == (0, f"{older.id} is deleted ({older.size_bytes / 1e3:.1f} kB)\n")
    assert [path.name for path in home.checkpoints.iterdir()] == [head.id]
    assert load_state(home)[0].state.head.checkpoints == (head,)
    ended = CliRunner().invoke(app, ["checkpoints", "prune", "--keep", "1", "--home", str(home.root)])
    assert isinstance(ended.exception, Refused)
    assert keepstep(home, "checkpoints", "prune", "--keep", "0")[0] == 2
    run()  # and a daemon finds nothing amiss
    assert load_state(home)[0].state.head.checkpoint == head


def test_prune_deletes_nothing_while_a_kept_checkpoint_is_damaged(
    home: Home, committed: tuple[Checkpoint, ...]
) -> None:
    older, head = committed
    spoil(home, head)
    ended = CliRunner().invoke(app, ["checkpoints", "prune", "--keep", "1", "--home", str(home.root)])
    assert isinstance(ended.exception, UserError)
    assert ended.exception.reason.startswith(
        f"{head.id} would stay, but it is damaged: weights does not have the SHA-256"
    )
    assert {path.name for path in home.checkpoints.iterdir()} == {older.id, head.id}


def test_prune_deletes_a_damaged_checkpoint(home: Home, committed: tuple[Checkpoint, ...]) -> None:
    spoil(home, committed[0])
    assert keepstep(home, "checkpoints", "prune", "--keep", "1")[0] == 0


def test_prune_knows_checkpoints_committed_meanwhile(
    home: Home, committed: tuple[Checkpoint, ...], drop: Callable[..., Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the journal and taking its lock, a daemon trained another file."""
    real_open = EventStore.open

    def open_too_early(home: Home) -> EventStore:
        early = real_open(home)
        monkeypatch.setattr(EventStore, "open", real_open)
        drop("b.jsonl", "ok ok ok ok ok")
        run()
        return early

    monkeypatch.setattr(EventStore, "open", open_too_early)
    code, said = keepstep(home, "checkpoints", "prune", "--keep", "1")
    (head,) = load_state(home)[0].state.head.checkpoints
    assert code == 0
    assert head.global_step > committed[-1].global_step
    assert "is deleted (" in said


def test_running_daemon_deletes_pruned_checkpoints_itself(
    home: Home, committed: tuple[Checkpoint, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that delete one directory would meet in it."""
    monkeypatch.setattr("cli.home.identity.daemon_is_alive", lambda _: True)
    assert keepstep(home, "checkpoints", "prune", "--keep", "1")[0] == 0
    assert {path.name for path in home.checkpoints.iterdir()} == {each.id for each in committed}


# -- export ---------------------------------------------------------------------------------------------------------


def test_export_writes_a_model_for_transformers(trained: Home, tmp_path: Path) -> None:
    """The head, or any that is kept, by its name or its step; from the command line, with separate processes."""
    from transformers import AutoModelForCausalLM

    code, said = keepstep(trained, "checkpoints", "export", "--to", str(tmp_path / "out"), "--dtype", "bfloat16")
    assert code == 0, said
    assert f"{tmp_path / 'out'}  (" in said
    assert "of the training" in said
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype.itemsize == 2
    code, said = keepstep(trained, "checkpoints", "export", "1", "--to", str(tmp_path / "first"), "--json")
    shown = json.loads(said)
    assert code == 0
    assert shown["dtypes"] == ["F32"]
    assert shown["difference"] <= shown["tolerance"]
    exported = json.loads((tmp_path / "first" / "keepstep.json").read_text(encoding="utf-8"))
    assert exported["checkpoint"]["cursor"]["global_step"] == 1


def refusal(home: Home, *arguments: str) -> str:
    """The reason that `export` gives a person for not doing it."""
    ended = CliRunner().invoke(app, ["checkpoints", "export", *arguments, "--home", str(home.root)])
    assert isinstance(ended.exception, UserError)
    return ended.exception.reason


def test_what_cannot_be_exported_is_said_and_leaves_nothing(trained: Home, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for arguments, says in (
        (["--to", str(tmp_path / "there")], "exists already; nothing was written"),
        (["--to", str(trained.root / "checkpoints" / "mine")], "is in the home"),
        (["99", "--to", str(tmp_path / "out")], "there is no checkpoint 99"),
    ):
        assert says in refusal(trained, *arguments)
    head = load_state(trained)[0].state.head.checkpoint
    assert head is not None
    (trained.checkpoints / head.id / "adapter_config.json").write_bytes(b"{}")
    said = refusal(trained, "--to", str(tmp_path / "out"))
    assert f"{head.id} was not exported: {head.id}: adapter_config.json has 2 bytes" in said
    assert not (tmp_path / "out").exists()


def test_nothing_to_export_is_said(home: Home, tmp_path: Path) -> None:
    assert "so there is no checkpoint" in refusal(home, "--to", str(tmp_path / "out"))
