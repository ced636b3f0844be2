"""`keepstep lineage`: what went into the weights, whether it is still there, and whether a row is among it."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from cli.app import app
from cli.commands import lineage as lineage_module
from cli.commands.lineage import read_lineage
from cli.daemon.loop import Daemon
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.inbox.accept import accept_copy
from events.kinds import FileDuplicate
from gpu.data.processes import row_locator
from gpu.ipc.protocol import Located, LocateRows, Locations, encode_request
from tests.harness.tiny_model import make_rows


@pytest.fixture
def real_locator() -> None:
    """For tests of the process that finds rows. It loads transformers, so the others find them in this process."""


@pytest.fixture(autouse=True)
def locator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def locate_here(module: str, order: LocateRows, **_: str) -> bytes:
        assert module == row_locator.__name__
        row_locator._tokenizer.cache_clear()
        return msgspec.json.encode(row_locator.locate(order))

    if "real_locator" not in request.fixturenames:
        monkeypatch.setattr(lineage_module, "ask", locate_here)


def lineage(home: Home, *arguments: str) -> tuple[int, str]:
    """Exit code and output; a UserError is raised."""
    ended = CliRunner().invoke(app, ["lineage", *arguments, "--home", str(home.root)])
    if isinstance(ended.exception, UserError):
        raise ended.exception
    return ended.exit_code, ended.output


def shown(home: Home, *arguments: str) -> Any:
    return json.loads(lineage(home, *arguments, "--json")[1])


def spoil(path: Path) -> None:
    """One byte is another."""
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def test_it_names_what_the_weights_were_made_from(trained: Home) -> None:
    code, said = lineage(trained)
    assert code == 0
    assert said.startswith("step 2, step-00000002-attempt-0001\n")
    assert "base    model, SHA-256 " in said
    assert "kind lora, r 16" in said
    assert "torch" in said
    whole = shown(trained)
    (part,) = whole["parts"]
    assert (part["name"], part["step_to"], part["plan"]["rows"], part["attempts"]) == ("a.jsonl", 2, 32, [1])
    assert shown(trained, "1")["parts"][0]["global_to"] == 1
    assert shown(trained, "step-00000001-attempt-0001")["checkpoint"] == "step-00000001-attempt-0001"


@pytest.fixture
def replayed(trained: Home) -> Home:
    """The same, and after it a file of 16 rows that replays 8 of the first: steps 3 and 4."""
    config = trained.config.read_text(encoding="utf-8")
    assert "\nreplay = 0.0 " in config
    trained.config.write_text(config.replace("\nreplay = 0.0 ", "\nreplay = 0.5 "), encoding="utf-8")
    (trained.inbox / "b.jsonl").write_bytes(make_rows(16, 500))
    os.utime(trained.inbox / "b.jsonl", (1.0, 1.0))
    assert Daemon(trained, until_idle=True, write=lambda _: None).run() == 0
    return trained


def mixed_in(earlier: str, job: str) -> set[int]:
    """The lines of the first file that were mixed into the second, by the rule that `gpu/data/plan/replay.py`
    states."""
    places = {n + 1: hashlib.blake2b(f"{job} {earlier} {n}".encode(), digest_size=16).digest() for n in range(32)}
    return set(sorted(places, key=places.__getitem__)[:8])


def test_a_row_that_was_mixed_into_a_later_file_is_found_there_too(replayed: Home) -> None:
    """By its place, and by its bytes; other rows are found at the steps that trained them."""
    assert [part["plan"]["replayed_rows"] for part in shown(replayed)["parts"]] == [0, 8]
    assert "24 (8 earlier)" in lineage(replayed)[1]
    again = mixed_in(*(part["job"] for part in shown(replayed)["parts"]))
    first, never = min(again), min(set(range(1, 33)) - again)
    at = {n: shown(replayed, "--contains", f"a.jsonl:{n}")["global_steps"] for n in (first, never)}
    assert [len(steps) for steps in at.values()] == [2, 1]
    assert {steps[0] for steps in at.values()} <= {1, 2}
    assert {steps[1] for steps in at.values() if len(steps) == 2} <= {3, 4}
    row = replayed.data_file(shown(replayed)["parts"][0]["job"]).read_bytes().splitlines()[first - 1]
    assert set(at[first]) <= set(shown(replayed, "--contains", hashlib.sha256(row).hexdigest())["global_steps"])
    assert shown(replayed, "2", "--contains", f"a.jsonl:{first}")["global_steps"] == at[first][:1]
    with pytest.raises(UserError, match="has no row on line 33"):
        shown(replayed, "--contains", "a.jsonl:33")


def test_every_row_is_found_at_the_steps_that_trained_it(trained: Home) -> None:
    """Each row once an epoch, and each step has as many as the batch is large."""
    (part,) = read_lineage(trained, None).parts
    (located,) = lineage_module._locate_rows(trained, [(part, tuple(range(1, 33)))])  # by one process, not by one a row
    at = [step for (step,) in located.steps]
    assert Counter(at) == {1: 16, 2: 16}
    job, first = part.job, at.index(2) + 1
    for step in (1, 2):
        found = shown(trained, "--contains", f"a.jsonl:{at.index(step) + 1}")
        assert found == {"contains": True, "job": job, "global_steps": [step], "self_correction": None}
    row = trained.data_file(job).read_bytes().splitlines()[first - 1]
    assert 2 in shown(trained, "--contains", hashlib.sha256(row).hexdigest())["global_steps"]
    assert not shown(trained, "--contains", hashlib.sha256(b"nobody wrote this").hexdigest())["contains"]
    code, said = lineage(trained, "1", "--contains", f"{job[:8]}:{first}")
    assert (code, said) == (1, f"no: line {first} of {job[:8]} was not trained up to step 1\n")
    assert lineage(trained, "--contains", f"{job[:8]}:{first}") == (0, "yes: trained at step 2\n")


def test_a_file_is_known_by_its_bytes_wherever_it_lies(trained: Home, tmp_path: Path) -> None:
    (tmp_path / "copy").write_bytes(make_rows(32))
    (tmp_path / "other").write_bytes(make_rows(31))
    assert lineage(trained, "--contains", f"{tmp_path / 'copy'}:1")[0] == 0
    code, said = lineage(trained, "--contains", f"{tmp_path / 'other'}:1")
    assert (code, said) == (1, f"no: these weights were not trained on {tmp_path / 'other'}\n")


@pytest.mark.parametrize("name", [b"\xff\xfe.jsonl", b"two\nlines.jsonl", "日本.jsonl".encode()])
def test_a_file_of_any_name_is_found_by_it(name: bytes, trained: Home) -> None:
    """As the system has the name, and as keepstep shows it; also by the name of a later file with the same bytes."""
    path = trained.root.parent / os.fsdecode(name)
    path.write_bytes(make_rows(32))
    with closing(EventStore.open(trained)) as store:
        (event,) = accept_copy(store, path, "normal")
        assert isinstance(event, FileDuplicate)
    path.unlink()
    assert lineage(trained, "--contains", f"{os.fsdecode(name)}:1")[0] == 0
    assert lineage(trained, "--contains", f"{event.name}:1")[0] == 0


def test_a_name_that_nobody_knows_is_unknown(trained: Home, tmp_path: Path) -> None:
    """Only of a file that arrived can it be said that it was not trained."""
    code, said = lineage(trained, "--contains", "nobody.jsonl:1")
    assert (code, said.startswith("unknown: no file named 'nobody.jsonl' ever arrived")) == (1, True)
    assert shown(trained, "--contains", "nobody.jsonl:1")["contains"] is None
    (tmp_path / "waits.jsonl").write_bytes(make_rows(3))
    with closing(EventStore.open(trained)) as store:
        accept_copy(store, tmp_path / "waits.jsonl", "normal")
    (tmp_path / "waits.jsonl").unlink()
    assert lineage(trained, "--contains", "waits.jsonl:1") == (1, "no: these weights were not trained on waits.jsonl\n")


@pytest.mark.usefixtures("real_locator")
def test_all_is_good_until_one_byte_is_another(trained: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """And then it is named: the data, the weights, a manifest, the base."""
    # The order of the rows hangs on none of them, and the process that works it out is slow to come up.
    by_text = cache(lineage_module.ask)  # type: ignore[attr-defined]
    monkeypatch.setattr(
        "cli.commands.lineage.ask", lambda module, order, **said: by_text(module, encode_request(order), **said)
    )
    code, said = lineage(trained, "--verify")
    assert code == 0
    assert [line.split()[:2] for line in said.splitlines()[-3:]] == [
        ["good", "data"],
        ["good", "checkpoint"],
        ["good", "base"],
    ]
    (data,) = trained.data.glob("*.jsonl")
    head = trained.checkpoints / "step-00000002-attempt-0001"
    for path, names in (
        (data, f"CHANGED   data data/{data.name}: its SHA-256 is not its name"),
        (head / "adapter_model.safetensors", f"CHANGED   checkpoint {head.name}: adapter_model.safetensors does not"),
        (head / "manifest.json", f"CHANGED   checkpoint {head.name}: manifest.json"),
        (trained.root / "model" / "model.safetensors", "its config or its weights have changed"),
    ):
        before = path.read_bytes()
        spoil(path)
        code, said = lineage(trained, "--verify")
        assert code == 1
        assert names in said
        path.write_bytes(before)
    assert shown(trained, "--verify")["good"]
    data.unlink()
    report = shown(trained, "--verify")
    assert not report["good"]
    assert [check["item"] for check in report["checks"] if check["problem"]] == [f"data data/{data.name}"]


def test_settings_that_differ_from_the_journal_are_named(trained: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if manifest and its committed hash had both been forged."""
    head = trained.checkpoints / "step-00000002-attempt-0001" / "manifest.json"
    head.write_bytes(head.read_bytes().replace(b'"seed": 42', b'"seed": 43'))
    monkeypatch.setattr("gpu.artifacts.artifact.find_problem", lambda *_, **__: None)
    code, said = lineage(trained, "--verify")
    assert code == 1
    assert "CHANGED   settings: the checkpoint's manifest and the journal differ" in said


def another_rule(module: str, order: LocateRows, *, otherwise: str) -> bytes:
    """What `gpu.data.processes.row_locator` would say."""
    assert (module, bool(otherwise)) == ("gpu.data.processes.row_locator", True)
    located = Located(batches_sha256="another", steps=((1,),))
    return msgspec.json.encode(Locations(located=(located,) * len(order.trained)))


def test_a_keepstep_that_would_order_the_rows_otherwise_says_so(trained: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could name a step, and it would be the wrong one."""
    monkeypatch.setattr("cli.commands.lineage.ask", another_rule)
    code, said = lineage(trained, "--verify")
    assert code == 1
    assert "CHANGED   plan of a.jsonl: this keepstep orders its rows differently" in said
    with pytest.raises(UserError, match=r"orders the rows of a\.jsonl differently"):
        lineage(trained, "--contains", "a.jsonl:1")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["99"], "99 is not a version, a checkpoint or a committed step"),
        (["nonsense"], "there is no version or checkpoint nonsense"),
        (["0"], "0 is not a version, a checkpoint or a committed step"),
        (["--contains", "a.jsonl"], "'a.jsonl' is neither FILE:LINE nor the SHA-256 of a row"),
        (["--contains", "a.jsonl:0"], "'a.jsonl:0' is neither FILE:LINE nor the SHA-256 of a row"),
        (["--contains", "a.jsonl:33"], "a.jsonl has no row on line 33"),
    ],
)
def test_what_nobody_knows_is_said(trained: Home, arguments: list[str], says: str) -> None:
    with pytest.raises(UserError) as refused:
        lineage(trained, *arguments)
    assert refused.value.reason == says


def test_step_between_two_checkpoints_has_no_checkpoint(trained: Home) -> None:
    found = read_lineage(trained, None)
    earlier = msgspec.structs.replace(found.kept[-1], global_step=found.global_step - 1)
    assert found.checkpoint == found.kept[-1].id
    assert found._replace(kept=[earlier]).checkpoint is None


def test_home_without_training_says_so(home: Home) -> None:
    with pytest.raises(UserError, match="nothing was trained since the origin"):
        lineage(home)
