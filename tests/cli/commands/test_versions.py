"""`keepstep consolidate` and `keepstep versions`: what people say, what they see, and what is refused."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cli.commands.exports.model import version_to_export
from cli.commands.lineage import _verify, read_lineage
from cli.commands.rerun import _committed
from cli.config.checks.together import time_zone
from cli.config.schema import load_config
from cli.daemon.loop import Daemon
from cli.daemon.ports import RealPorts, Worker
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from cli.machine.clock import Clock
from core.errors import Refused
from core.state import State
from journal.storage import Storage
from tests.cli.commands.test_checkpoints import keepstep

Run = Callable[..., list[str]]
Drop = Callable[..., Path]


def state(home: Home) -> State:
    return load_state(home)[0].state


@pytest.fixture
def night(home: Home, drop: Drop, run: Run) -> Callable[[str], list[str]]:
    """Learn a file and consolidate it; what the daemon said."""

    def trained(name: str) -> list[str]:
        drop(f"{name}.jsonl", f"ok ok ok ok {name}")
        run()
        assert keepstep(home, "consolidate", "-d", f"of {name}")[0] == 0
        return run()

    return trained


def test_a_consolidation_is_asked_for_and_the_daemon_says_how_it_goes(
    home: Home, night: Callable[[str], list[str]]
) -> None:
    said = "\n".join(night("a"))
    for line in (
        "consolidating step-00000005-attempt-0001 into v001",
        "verified the backup",
        "merged: 100.0% of the training is in the weights (merging in place would have kept 50.0%)",
        "verified: its logits differ by 0.00%",
        "published versions/v001",
    ):
        assert line in said
    code, shown = keepstep(home, "status")
    assert code == 0
    assert "v001  (step 5" in shown
    assert "nothing since v001" in shown


def test_a_worker_that_made_a_version_ends_and_gives_its_memory_back(
    home: Home, drop: Drop, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has held whole models; the next file has a new one. Between two files it stays."""
    started = []

    def counted(machine: RealPorts) -> Worker:
        started.append(start(machine))
        return started[-1]

    start = RealPorts.start_worker
    monkeypatch.setattr(RealPorts, "start_worker", counted)
    drop("a.jsonl", "ok ok")
    drop("b.jsonl", "ok ok b")
    run()
    assert len(started) == 1
    keepstep(home, "consolidate", "--after-current")
    drop("c.jsonl", "ok ok c")
    run()
    assert [each.id for each in state(home).retention.versions] == ["v001"]
    assert state(home).outcomes.counts.trained == 3
    assert len(started) == 3


def test_consolidation_twice_or_without_training_is_refused_and_can_be_cancelled(
    home: Home, drop: Drop, run: Run
) -> None:
    with pytest.raises(Refused, match="nothing was trained"):
        EventStore.open(home).execute(_request())
    drop("a.jsonl", "ok ok")
    run()
    assert "no daemon runs: `keepstep run` starts it" in keepstep(home, "consolidate")[1]
    assert "a consolidation when no file trains" in keepstep(home, "status")[1]
    assert isinstance(_refused(home, "consolidate"), Refused)
    assert "consolidation cancelled" in keepstep(home, "consolidate", "--cancel")[1]
    run()
    assert state(home).retention.versions == ()


def _request() -> Any:
    from core.commands import RequestConsolidation

    return RequestConsolidation(description="")


def _refused(home: Home, *words: str) -> BaseException | None:
    from typer.testing import CliRunner

    from cli.app import app

    return CliRunner().invoke(app, [*words, "--home", str(home.root)]).exception


def test_versions_are_listed_shown_compared_and_restored(home: Home, night: Callable[[str], list[str]]) -> None:
    assert "there is no version yet" in keepstep(home, "versions", "list")[1]
    night("a")
    night("b")
    listed = keepstep(home, "versions", "list")[1]
    assert "v002 ← head" in listed
    assert listed.count("← head") == 1
    heads = [json.loads(keepstep(home, "versions", "show", name, "--json")[1])["head"] for name in ("v001", "v002")]
    assert heads == [False, True]
    assert "of a" in listed
    shown = keepstep(home, "versions", "show", "v002")[1]
    assert "of b" in shown
    assert "and v001" in shown
    assert "b.jsonl" in shown
    difference = keepstep(home, "versions", "diff", "v001", "v002")[1]
    assert "trained only for v001: nothing" in difference
    assert "b.jsonl" in difference
    assert "a.jsonl" not in difference
    shown = json.loads(keepstep(home, "versions", "diff", "v002", "origin", "--json")[1])
    assert [each["file"] for each in shown["v002"]] == ["a.jsonl", "b.jsonl"]
    said = keepstep(home, "versions", "rollback")[1]
    assert "continues from v001" in said
    assert "keepstep versions restore v002" in said
    assert "v002" not in keepstep(home, "versions", "list")[1]
    assert "v002" in keepstep(home, "versions", "list", "--all")[1]
    assert "continues from v002" in keepstep(home, "versions", "restore", "v002")[1]


def test_training_since_a_version_is_detached_and_can_be_restored(
    home: Home, night: Callable[[str], list[str]], drop: Drop, run: Run
) -> None:
    night("a")
    drop("b.jsonl", "ok ok ok ok b")
    run()
    head = state(home).head.checkpoint
    assert head is not None
    keepstep(home, "versions", "rollback")
    assert (home.checkpoints / head.id).is_dir()
    run()
    assert (home.checkpoints / head.id).is_dir()  # a start sweeps what nothing names
    assert head.id in keepstep(home, "versions", "list", "--all")[1]
    keepstep(home, "versions", "restore", head.id)
    assert state(home).head.checkpoint == head


def test_needed_versions_are_not_deleted_and_others_only_with_confirm(
    home: Home, night: Callable[[str], list[str]]
) -> None:
    night("a")
    night("b")
    assert "the head was trained from it" in str(_refused(home, "versions", "delete", "v002", "--confirm"))
    assert "v002 was built on it" in str(_refused(home, "versions", "delete", "v001", "--confirm"))
    assert "the origin cannot be deleted" in str(_refused(home, "versions", "delete", "origin", "--confirm"))
    keepstep(home, "versions", "rollback")
    unsure = _refused(home, "versions", "delete", "v002")
    assert isinstance(unsure, UserError)
    assert "would be deleted for good" in unsure.reason
    assert (home.versions / "v002").is_dir()
    assert keepstep(home, "versions", "delete", "v002", "--confirm")[0] == 0
    assert not (home.versions / "v002").exists()


def test_damaged_version_is_not_restored(home: Home, night: Callable[[str], list[str]]) -> None:
    night("a")
    night("b")
    shutil.rmtree(home.versions / "v001")
    refusal = _refused(home, "versions", "rollback")
    assert isinstance(refusal, UserError)
    assert "v001 is damaged: its directory is missing" in refusal.reason
    assert state(home).head.base == "v002"
    shutil.copytree(home.versions / "v002", home.versions / "v001")
    assert "keepstep.json is not the one that was written" in str(_refused(home, "versions", "restore", "v001"))


def test_a_base_that_is_damaged_stops_the_daemon_and_says_what_to_do(
    home: Home, night: Callable[[str], list[str]], drop: Drop
) -> None:
    night("a")
    (home.versions / "v001" / "keepstep.json").write_text("{}", encoding="utf-8")
    drop("b.jsonl", "ok ok")
    attempts, said = state(home).attempts.last, list[str]()
    with pytest.raises(UserError, match="v001 is not what was published"):
        Daemon(home, until_idle=True, write=said.append, ports=RealPorts(home, "tests.harness.worker")).run()
    assert state(home).daemon.hold is not None
    assert state(home).head.base == "v001"
    assert state(home).attempts.last == attempts, "no worker loads a damaged model"


def test_the_names_of_what_is_not_there_are_refused(home: Home, night: Callable[[str], list[str]]) -> None:
    night("a")
    for words in (("show", "v007"), ("diff", "v001", "v007"), ("restore", "v007"), ("delete", "v007")):
        assert "no version v007" in str(_refused(home, "versions", *words))


def test_the_schedule_asks_for_each_night_once(home: Home, drop: Drop, run: Run) -> None:
    """The clock of a home is a port: it stands at nine in the morning here."""

    class Nine(Clock):
        def now(self) -> float:
            return datetime(2027, 6, 1, 9, tzinfo=UTC).timestamp()

        def monotonic(self) -> float:
            return home_clock.monotonic()

    home_clock, home.clock = home.clock, Nine()
    text = home.config.read_text(encoding="utf-8").replace('schedule = ""', 'schedule = "03:00"')
    home.config.write_text(text, encoding="utf-8")
    for name in ("a", "b"):
        drop(f"{name}.jsonl", f"ok ok {name}")
        run()
    made = state(home).retention.versions
    assert [(version.id, version.description) for version in made] == [("v001", "what was trained up to 2027-06-01")]
    assert state(home).head.checkpoint is not None  # what came after it is for the next night


class Small(Storage):
    """A disk on which so much is free."""

    free = 3 * 10**9

    def free_bytes(self, path: Path) -> int:
        return self.free


def test_the_limits_of_the_config_are_held_against_the_disk(
    home: Home, drop: Drop, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the soft one older checkpoints go; below the hard one nothing is begun, and it is said."""
    text = home.config.read_text(encoding="utf-8").replace("soft_gb = 0.0", "soft_gb = 4.0")
    home.config.write_text(text, encoding="utf-8")
    drop("a.jsonl", "ok ok ok ok ok ok ok")
    run()
    assert len(state(home).head.checkpoints) == 2
    home.storage = Small()
    said = "\n".join(run())
    assert "disk space is low (3.00 GB free)" in said
    assert len(state(home).head.checkpoints) == 1
    assert state(home).disk.low
    assert "are free on the disk" in keepstep(home, "status")[1]
    home.config.write_text(text.replace("hard_gb = 0.0", "hard_gb = 3.5"), encoding="utf-8")
    drop("b.jsonl", "ok ok b")
    monkeypatch.setattr("cli.daemon.resource_monitor.MEASURE_EVERY_S", 0.05)
    monkeypatch.setattr("cli.daemon.resource_monitor.FIRST_WAIT_S", 0.05)
    threading.Timer(2.0, lambda: setattr(Small, "free", 9 * 10**9)).start()
    said = "\n".join(run())
    assert "waiting for disk space: 3.00 GB are free on the disk, less than [disk] hard_gb = 3.5" in said
    assert state(home).head.global_step == 10


def test_lowering_the_hard_limit_ends_the_wait_for_disk_space(
    home: Home, drop: Drop, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an edit of the config alone: no room was made, and nobody says `resume`."""
    text = home.config.read_text(encoding="utf-8")
    home.config.write_text(text.replace("hard_gb = 0.0", "hard_gb = 1000000.0"), encoding="utf-8")
    drop("a.jsonl", "ok ok")
    monkeypatch.setattr("cli.daemon.resource_monitor.MEASURE_EVERY_S", 0.05)
    monkeypatch.setattr("cli.daemon.resource_monitor.FIRST_WAIT_S", 0.05)
    threading.Timer(1.0, lambda: home.config.write_text(text, encoding="utf-8")).start()
    assert "less than [disk] hard_gb = 1e+06" in "\n".join(run())
    assert state(home).head.global_step == 2


@pytest.mark.parametrize("key", ['schedule = "25:00"', 'schedule = "03:00"\ntimezone = "Middle/Earth"'])
def test_a_schedule_that_is_none_is_refused_by_name(home: Home, key: str) -> None:
    text = home.config.read_text(encoding="utf-8")
    head, _, _ = text.partition("[consolidation]")
    home.config.write_text(f"{head}[consolidation]\n{key}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"consolidation\.(schedule|timezone)"):
        load_config(home.config)


def test_utc_needs_no_list_of_zones() -> None:
    from events.settings import ConsolidationSettings

    assert time_zone(ConsolidationSettings(timezone="utc")) is UTC


def test_a_version_that_was_removed_or_edited_by_hand_is_shown_as_damaged_and_not_exported(
    home: Home, night: Callable[[str], list[str]], tmp_path: Path
) -> None:
    """It stays in the list: its files can be restored."""
    night("a")
    manifest = home.versions / "v001" / "keepstep.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole + b" ")
    assert "DAMAGED: keepstep.json is not the one that was written" in keepstep(home, "versions", "list")[1]
    assert "DAMAGED    keepstep.json is not" in keepstep(home, "versions", "show", "v001")[1]
    with pytest.raises(UserError, match="nothing was exported"):
        version_to_export(home, "v001")
    manifest.write_bytes(whole)
    assert "DAMAGED" not in keepstep(home, "versions", "list")[1]
    shutil.rmtree(home.versions / "v001")
    assert "DAMAGED: its directory is missing" in keepstep(home, "versions", "list")[1]


def test_a_changed_byte_of_a_version_is_found_by_its_lineage(home: Home, night: Callable[[str], list[str]]) -> None:
    night("a")
    found = read_lineage(home, "v001")._replace(parts=())  # without the rows, which only a real model has
    assert [*_verify(home, found, None)] == [("version v001", None)]
    name = next(iter(json.loads((home.versions / "v001" / "keepstep.json").read_bytes())["files"]))
    path = home.versions / "v001" / name
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    ((item, problem),) = _verify(home, found, None)
    assert item == "version v001"
    assert f"{name} does not have the SHA-256" in str(problem)


def test_a_version_is_proved_against_the_backup_that_was_made_before_it(
    home: Home, night: Callable[[str], list[str]]
) -> None:
    """Its own checkpoint is pruned. Without the backup, the message says what to do."""
    night("a")
    found = read_lineage(home, "v1")
    assert found.checkpoint is None
    assert found.version is not None
    name, directory = _committed(home, found)
    assert name == found.version.checkpoint
    assert directory.parent.parent == home.backups
    assert directory.is_dir()
    night("b")
    assert _committed(home, read_lineage(home, "v1")) == (name, directory)
    assert _committed(home, read_lineage(home, "v2"))[1].is_dir()
    state = msgspec.structs.replace(found.state, retention=msgspec.structs.replace(found.state.retention, backups=()))
    with pytest.raises(UserError, match="there is nothing to compare") as refused:
        _committed(home, found._replace(state=state))
    assert "keepstep lineage --verify" in refused.value.advice


def test_after_a_rollback_to_the_origin_the_versions_are_still_known(
    home: Home, night: Callable[[str], list[str]]
) -> None:
    """None led to the head, but there is one."""
    night("a")
    assert keepstep(home, "versions", "rollback")[0] == 0
    assert "1 version in all" in keepstep(home, "versions")[1]
    assert keepstep(home, "versions", "restore", "v1")[0] == 0
