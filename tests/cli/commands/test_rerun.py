"""`keepstep checkout` and `lineage --prove`: any committed step comes back, to the bit."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from cli.app import app
from cli.commands.init import create_home
from cli.commands.lineage import read_lineage
from cli.commands.rerun import rerun_ranges
from cli.config.schema import Config
from cli.daemon.loop import Daemon
from cli.errors import REFUSED, STORAGE_FAILED, UserError
from cli.home.paths import Home
from cli.home.subprocesses import refused
from events.settings import CheckpointSettings, FullSettings, JobSettings, LoraSettings, ModelSettings, TrainingSettings
from gpu.ipc.protocol import Refusal
from projections.lineage import Part
from tests.gpu import helpers as worker
from tests.harness.tiny_model import make_rows, make_tiny_model

pytestmark = pytest.mark.usefixtures("warm_module")

Lived = tuple[Home, dict[int, dict[str, str]]]


def keepstep(home: Home, *arguments: str) -> tuple[int, str]:
    """Exit code and output; a UserError is raised."""
    ended = CliRunner().invoke(app, [*arguments, "--home", str(home.root)])
    if isinstance(ended.exception, UserError):
        raise ended.exception
    return ended.exit_code, ended.output


def bits(directory: Path) -> dict[str, str]:
    """The SHA-256 of all trained tensors."""
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(directory.glob("*.safetensors"))}


@contextmanager
def changed(path: Path, data: bytes) -> Iterator[None]:
    """A file that is another for a while."""
    before = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


def flipped(path: Path) -> bytes:
    """Its bytes, the last of them another."""
    data = path.read_bytes()
    return data[:-1] + bytes([data[-1] ^ 1])


def made(path: Path, keep: int, **how: object) -> Home:
    """A home whose jobs train with dropout and accumulation; checkpoints at every fourth step and at the end."""
    training = TrainingSettings(batch_size=2, gradient_accumulation=2, epochs=2, threads=1, learning_rate=0.01)
    settings = JobSettings(
        model=ModelSettings(path="model"),
        method=LoraSettings(r=4, dropout=0.1),
        training=training,
        checkpoints=CheckpointSettings(every_steps=4, every_seconds=0, keep=keep),
    )
    home = create_home(path, model="model", config=Config(job=msgspec.structs.replace(settings, **how)))
    make_tiny_model(path / "model")
    return home


def learn(home: Home, *counts: int, until_idle: bool = True) -> None:
    """Files of so many rows."""
    for count in counts:
        (home.inbox / f"{count}.jsonl").write_bytes(make_rows(count))
        os.utime(home.inbox / f"{count}.jsonl", (1.0, 1.0))
        assert Daemon(home, until_idle=until_idle, write=lambda _: None).run() == 0


def truth_of(path: Path, settings: JobSettings, *counts: int) -> dict[int, dict[str, str]]:
    """The weights after each step, by a worker that stops at every step."""
    make_tiny_model(path / "model")
    other, found, checkpoint = worker.Home(path), dict[int, dict[str, str]](), None
    warm = other.new_session()
    for count in counts:
        job = other.add(make_rows(count))
        for step in range(-(-count // 4) * 2):
            at = len(found)
            checkpoint = other.train_job(
                warm, job, settings, step=step, global_step=at, until=step + 1, checkpoint=checkpoint
            )
            found[at + 1] = other.bits(checkpoint)
    return found


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """A home that has trained two files and kept only the last two checkpoints; and the truth about each step."""
    home = made(tmp_path_factory.mktemp("lived") / "home", keep=2)
    learn(home, 9, 6)
    return home, truth_of(tmp_path_factory.mktemp("truth"), read_lineage(home, None).parts[0].settings, 9, 6)


def test_any_committed_step_comes_back_bit_for_bit(lived: Lived, tmp_path: Path) -> None:
    """From the base, from an ancestor, across two files, or as it lies there; the home is left as it is."""
    home, truth = lived
    assert sorted(truth) == list(range(1, 11))
    kept = [0, *(each.global_step for each in read_lineage(home, None).kept)]
    assert kept == [0, 6, 10]
    before = sorted(path for path in home.root.rglob("*"))
    wanted = {1, 5, 6, 7, 9, *kept[1:]}
    for step in sorted(wanted):
        target = tmp_path / str(step)
        code, said = keepstep(home, "checkout", "--step", str(step), "--to", str(target), "--json")
        assert code == 0
        assert bits(target) == truth[step]
        assert json.loads(said)["steps_run"] == step - max(each for each in kept if each <= step)
        assert (target / "adapter_config.json").exists()
    assert sorted(path for path in home.root.rglob("*")) == before
    assert {path.name for path in tmp_path.iterdir()} == set(map(str, wanted))


def test_a_record_of_the_journal_names_the_step_that_was_committed_then(lived: Lived, tmp_path: Path) -> None:
    home, truth = lived
    lines = [json.loads(line) for path in sorted(home.journal.glob("0*.jsonl")) for line in path.open()]
    first = next(line for line in lines if line.get("event", {}).get("kind") == "checkpoint_committed")
    step = first["event"]["global_step"]
    code, said = keepstep(home, "checkout", "--seq", str(first["seq"]), "--to", str(tmp_path / "out"))
    assert code == 0
    assert said.splitlines()[0] == f"running steps 1 to {step} again, from the base"
    assert bits(tmp_path / "out") == truth[step]
    with pytest.raises(UserError, match="nothing was committed yet at record 2"):
        keepstep(home, "checkout", "--seq", "2", "--to", str(tmp_path / "other"))
    with pytest.raises(UserError, match="the journal has no record 99999"):
        keepstep(home, "checkout", "--seq", "99999", "--to", str(tmp_path / "other"))


def test_it_is_proved_by_running_the_last_steps_again(lived: Lived) -> None:
    home, _ = lived
    earlier, head = read_lineage(home, None).kept
    code, said = keepstep(home, "lineage", "--prove")
    assert code == 0
    assert said.splitlines() == [
        f"running steps {earlier.global_step + 1} to 10 again, from {earlier.id}",
        f"proved: the same losses, weights and optimizer state as in {head.id}, bit for bit",
    ]
    assert keepstep(home, "lineage", earlier.id, "--prove")[0] == 0
    with pytest.raises(UserError, match="step 3 has no checkpoint to compare with"):
        keepstep(home, "lineage", "3", "--prove")


def test_changed_weights_are_not_proved(lived: Lived) -> None:
    """Even when the manifest was made to fit them."""
    home, _ = lived
    head = home.checkpoints / str(read_lineage(home, None).checkpoint) / "adapter_model.safetensors"
    with changed(head, flipped(head)):
        code, said = keepstep(home, "lineage", "--prove", "--json")
    shown = json.loads(said)
    assert code == 1
    assert not shown["proved"]
    assert shown["problem"].startswith("adapter_model.safetensors differs from that in step-00000010")
    assert shown["steps"][-1] == 10


def test_data_that_changed_is_named_and_nothing_is_left(lived: Lived, tmp_path: Path) -> None:
    home, _ = lived
    (first, *_) = read_lineage(home, None).parts
    path = home.data_file(first.job)
    with (
        changed(path, path.read_bytes().replace(b"?", b"!", 1)),
        pytest.raises(UserError, match=f"{path.name} has changed since it was accepted"),
    ):
        keepstep(home, "checkout", "--step", "2", "--to", str(tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_full_weights_come_back_too(tmp_path: Path) -> None:
    home = made(tmp_path / "home", keep=1, method=FullSettings())
    learn(home, 6)
    truth = truth_of(tmp_path / "truth", read_lineage(home, None).parts[0].settings, 6)
    assert keepstep(home, "checkout", "--step", "2", "--to", str(tmp_path / "out"))[0] == 0
    assert bits(tmp_path / "out") == truth[2]


@pytest.mark.parametrize("arguments", [[], ["--step", "1", "--seq", "1"]])
def test_what_is_wanted_must_be_clear(lived: Lived, tmp_path: Path, arguments: list[str]) -> None:
    with pytest.raises(UserError, match="one of --step and --seq is needed"):
        keepstep(lived[0], "checkout", *arguments, "--to", str(tmp_path / "out"))


def test_orders_begin_where_the_checkpoint_stands(lived: Lived) -> None:
    """In the middle of a part; and a job that starts has its moments reset, if its settings say so."""
    parts = read_lineage(lived[0], None).parts
    assert [(each.global_step, each.step, each.until) for each in rerun_ranges(parts, 0)] == [(0, 0, 6), (6, 0, 4)]
    assert [(each.global_step, each.step, each.until) for each in rerun_ranges(parts, 4)] == [(4, 4, 6), (6, 0, 4)]

    def reset(part: Part) -> Part:
        training = msgspec.structs.replace(part.settings.training, optimizer="reset")
        return msgspec.structs.replace(part, settings=msgspec.structs.replace(part.settings, training=training))

    assert [each.carry_optimizer for each in rerun_ranges([*map(reset, parts)], 4)] == [True, False]


def test_a_leftover_of_one_that_was_killed_is_in_nobodys_way(
    lived: Lived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".staging-out" / "half").mkdir(parents=True)
    assert keepstep(lived[0], "checkout", "--step", "10", "--to", str(tmp_path / "out"))[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_loss_that_is_another_now_is_named(lived: Lived, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though weights and moments agree: as if the journal belonged to another run."""
    home, _ = lived
    found = read_lineage(home, None)
    step = found.kept[0].global_step + 1
    shown = found.state.recovery.step_log.at(step)
    assert shown is not None
    step_log = found.state.recovery.step_log.replaced(step, (9.5, shown[1]))
    recovery = msgspec.structs.replace(found.state.recovery, step_log=step_log)
    other = found._replace(state=msgspec.structs.replace(found.state, recovery=recovery))
    monkeypatch.setattr("cli.commands.rerun.read_lineage", lambda *_: other)
    code, said = keepstep(home, "lineage", "--prove")
    assert code == 1
    assert said.splitlines()[1] == f"NOT PROVED: step {step} gave loss {shown[0]}; in training it was 9.5"


def test_a_damaged_checkpoint_is_not_handed_out(lived: Lived, tmp_path: Path) -> None:
    home, _ = lived
    head = home.checkpoints / str(read_lineage(home, None).checkpoint) / "optimizer.safetensors"
    with (
        changed(head, flipped(head)),
        pytest.raises(UserError, match=r"optimizer\.safetensors does not have the SHA-256 of the manifest"),
    ):
        keepstep(home, "checkout", "--step", "10", "--to", str(tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_was_pruned_since_is_not_started_from(lived: Lived) -> None:
    """As of an early record there was one; what is kept is judged by the journal's end."""
    home, _ = lived
    lines = [json.loads(line) for path in sorted(home.journal.glob("0*.jsonl")) for line in path.open()]
    first = next(line["seq"] for line in lines if line.get("event", {}).get("kind") == "checkpoint_committed")
    assert read_lineage(home, None, seq=first).kept == []


def test_a_disk_that_fails_where_it_is_written_to_has_its_own_exit_code() -> None:
    assert refused("no", Refusal(problem="full", storage=True), "look").exit_code == STORAGE_FAILED
    shown = refused("no", Refusal(problem="odd"), "look")
    assert (shown.reason, shown.advice, shown.exit_code) == ("no: odd", "look", REFUSED)
