"""`keepstep doctor` as a whole: on homes in good and in bad states, and what it fixes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.app import app
from cli.doctor import report as doctor_module
from cli.doctor.context import Check, DoctorContext, passed
from cli.doctor.report import CHECKS, Line, run_checks
from cli.errors import UserError
from cli.home.paths import Home

pytestmark = pytest.mark.usefixtures("warm")


def found(home: Home, *, fix: bool = False, deep: bool = False) -> dict[str, Line]:
    return {line.name: line for line in run_checks(home, fix=fix, deep=deep)}


def levels(home: Home, level: str) -> set[str]:
    return {name for name, line in found(home).items() if line.finding.level == level}


def contents(home: Home) -> dict[str, bytes]:
    """Every file, but for what only asking whether a lock is held makes."""
    return {str(path): path.read_bytes() for path in home.root.rglob("*") if path.is_file()}


def test_a_home_in_good_health_passes_and_is_left_as_it_was(trained: Home) -> None:
    """Every check, and not a byte changed."""
    before = contents(trained)
    lines = found(trained)
    assert {name: line.finding for name, line in lines.items() if line.finding.level != "pass"} == {}
    assert set(lines) == {check.name for check in CHECKS}
    assert contents(trained) == before


def test_a_look_into_everything_loads_what_the_next_step_starts_from(trained: Home) -> None:
    """In a separate process, by the worker's own code."""
    line = found(trained, deep=True)["resume"]
    assert line.finding.level == "pass", line.finding
    assert "global step 3, from step-00000002-attempt-0001 on the base model; loaded in" in line.finding.message


def test_no_check_ends_the_others_whatever_is_broken(trained: Home) -> None:
    """Journal, config, status, model and checkpoints at once: each is its own finding, and none is a bug."""
    segment = trained.journal / "00000001.jsonl"
    data = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join([*data[:3], b"rot\n", *data[4:]]))
    trained.config.write_text("[training\n", encoding="utf-8")
    trained.status.write_bytes(b"{}")
    shutil.rmtree(trained.root / "model")
    lines = found(trained)
    assert set(lines) == {check.name for check in CHECKS}
    assert lines["journal"].finding.level == "fail"
    assert "record 3 to at least" in lines["journal"].finding.message
    assert "repair --accept-loss" in lines["journal"].finding.advice
    assert "is not valid TOML" in lines["config"].finding.message
    assert lines["checkpoints"].finding.level == "warn"
    assert "not checked: the journal cannot be read" in lines["resume"].finding.message
    assert not any("the check itself crashed" in line.finding.message for line in lines.values())


@pytest.mark.parametrize("gone", ["checkpoints", "data", "status", "run", "inbox", "journal", "keepstep.toml"])
def test_missing_directories_are_reported_and_created(trained: Home, gone: str) -> None:
    """And directories without content are created again."""
    path = trained.root / gone
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    lines = found(trained)
    assert any(line.finding.level != "pass" for line in lines.values())
    assert not any("the check itself crashed" in line.finding.message for line in lines.values())
    fixed = found(trained, fix=True)
    assert path.exists() == (gone not in {"journal", "keepstep.toml"})
    assert not any("the check itself crashed" in line.finding.message for line in fixed.values())


def test_fixing_loses_nothing_and_says_what_it_did(trained: Home) -> None:
    """Directories made, temporaries and sockets removed, the view rebuilt: all else is as it was."""
    before = contents(trained)
    shutil.rmtree(trained.inbox)
    trained.status.write_bytes(b"{}")
    (trained.status.parent / ".status.json.1234abcd.tmp").write_bytes(b"half")
    (trained.run / "worker-1234.sock").touch()
    (trained.checkpoints / "my-own").mkdir()
    assert levels(trained, "warn") == {"home", "leftovers", "status file"}
    lines = found(trained, fix=True)
    assert lines["home"].fixed == ["created inbox", "created inbox/high", "created inbox/low"]
    assert lines["leftovers"].fixed == ["deleted status/.status.json.1234abcd.tmp", "deleted run/worker-1234.sock"]
    assert lines["status file"].fixed == ["rebuilt status/status.json and status/snapshot.json from the journal"]
    assert all(line.finding.level == "pass" for line in lines.values())
    assert (trained.checkpoints / "my-own").is_dir()
    after = contents(trained)
    assert {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)} <= {
        str(trained.status),
        str(trained.snapshot),
        str(trained.daemon_lock),
    }


def test_a_damaged_journal_is_not_touched_by_fixing(trained: Home) -> None:
    """Nothing is rebuilt from what cannot be read; that it cannot is said."""
    segment = trained.journal / "00000001.jsonl"
    segment.write_bytes(segment.read_bytes().replace(b'"seq":4', b'"seq":9', 1))
    trained.status.unlink()
    before = contents(trained)
    line = found(trained, fix=True)["status file"]
    assert line.finding.level == "fail"
    assert "could not be fixed" in line.finding.message
    after = contents(trained)
    assert {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)} <= {
        str(trained.daemon_lock)
    }


def test_bug_in_a_check_is_a_finding_and_the_others_run(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A doctor who faints helps nobody."""

    def broken(_: DoctorContext) -> object:
        raise ZeroDivisionError("a bug")

    checks = (Check("broken", broken), Check("sound", lambda _: passed("well")))
    monkeypatch.setattr(doctor_module, "CHECKS", checks)
    lines = found(home)
    assert lines["broken"].finding.message == "the check itself crashed: ZeroDivisionError: a bug"
    assert lines["sound"].finding.level == "pass"


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.delenv("KEEPSTEP_HOME", raising=False)
    return CliRunner()


def test_doctor_prints_each_check_and_how_to_fix_it(trained: Home, narrow: CliRunner) -> None:
    """Exit code 1 if something fails; a warning alone is none."""
    trained.stop_file.touch()
    shown = narrow.invoke(app, ["doctor", "--home", str(trained.root)])
    assert shown.exit_code == 0, shown.output
    assert "warn   leftovers" in shown.stdout
    assert "→ rm " in shown.stdout
    assert "22 pass, 1 warn, 0 fail" in shown.stdout
    trained.stop_file.unlink()
    (trained.root / "model" / "config.json").unlink()
    shown = narrow.invoke(app, ["doctor", "--home", str(trained.root), "--json"])
    assert shown.exit_code == 1
    report = json.loads(shown.stdout)
    assert not report["good"]
    (bad,) = [check for check in report["checks"] if check["level"] == "fail"]
    assert bad["check"] == "model"
    assert set(bad) == {"check", "level", "message", "advice", "fixed"}


def test_a_home_without_its_config_is_still_known_for_one(trained: Home, tmp_path: Path) -> None:
    """By its journal; anything else is no home."""
    trained.config.unlink()
    assert doctor_module.find_damaged_home(trained.root).root == trained.root
    with pytest.raises(UserError, match="not a keepstep home"):
        doctor_module.find_damaged_home(tmp_path)


def test_the_journal_is_only_read(trained: Home) -> None:
    """A torn tail is told, and left for the next start to keep aside."""
    segment = trained.journal / "00000001.jsonl"
    torn = segment.read_bytes() + b'{"seq":99,'
    segment.write_bytes(torn)
    line = found(trained)["journal"]
    assert line.finding.level == "warn"
    assert "never acknowledged" in line.finding.message
    assert segment.read_bytes() == torn


def test_new_home_has_nothing_to_fix(home: Home) -> None:
    """What a new user sees first is no warning; nor is the missing view of a home that an earlier keepstep made."""
    assert levels(home, "warn") - {"model"} == set()
    assert found(home)["status file"].finding.message == "status/status.json shows record 1"
    home.status.unlink()
    assert found(home)["status file"].finding.message == "this home is new: there is no status file yet"


def test_one_cause_is_reported_once(trained: Home) -> None:
    """A config that cannot be read fails as itself; what needs it says that it was not looked at."""
    config = trained.config.read_text(encoding="utf-8")
    trained.config.write_text(config.replace('on_held = ""', 'on_held = "sh -c \'open"'), encoding="utf-8")
    lines = found(trained)
    failing = [name for name, line in lines.items() if line.finding.level == "fail"]
    assert failing == ["config"]
    assert lines["disk"].finding.message == "not checked: config fails"
