"""`keepstep service`, with a systemd that remembers what it was told."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.app import app
from cli.errors import UserError
from cli.home.identity import DaemonLock, this_process
from cli.home.paths import Home
from cli.supervision import service as service_module
from cli.supervision.service import Answer, Service
from cli.supervision.unit import Manager
from tests.harness.syncs import Syncs


class FakeSystemd:
    """Answers as systemctl does."""

    def __init__(self, *, there: bool = True, lingering: bool = True) -> None:
        self.there, self.lingering = there, lingering
        self.calls: list[str] = []
        self.active = "inactive"
        self.failing: dict[str, str] = {}

    def is_there(self) -> bool:
        return self.there

    def systemctl(self, manager: Manager, *arguments: str) -> Answer:
        self.calls.append(f"{manager} {arguments[0]}")
        if arguments[0] in self.failing:
            return Answer(1, self.failing[arguments[0]])
        if arguments[0] == "start":
            self.active = "active"
        if arguments[0] == "show":
            return Answer(
                0,
                f"ActiveState={self.active}\nSubState=running\nUnitFileState=enabled\nStatusText=training a=b.jsonl\n"
                "MainPID=42\nNRestarts=3\nResult=success",
            )
        return Answer(0, "")

    def lingers(self) -> bool:
        return self.lingering


@pytest.fixture
def systemd() -> FakeSystemd:
    return FakeSystemd()


@pytest.fixture
def service(home: Home, systemd: FakeSystemd, tmp_path: Path) -> Service:
    return Service(home, "user", systemd=systemd, units=tmp_path / "units", environment={})


def test_installing_writes_the_unit_and_starts_it(service: Service, systemd: FakeSystemd) -> None:
    """Once more is the same, and starts nothing twice."""
    said: list[str] = []
    service.install(said.append, start=True)
    assert service.path.read_text(encoding="utf-8") == service.text()
    assert str(service.home.root) in service.text()
    assert [word for word in systemd.calls if word != "user show"] == [
        "user daemon-reload",
        "user enable",
        "user start",
    ]
    assert "started" in said
    systemd.calls.clear()
    said.clear()
    service.install(said.append, start=True)
    assert "user start" not in systemd.calls
    assert said[0].startswith("unchanged")


def test_an_installed_unit_survives_a_power_cut(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next boot would start nothing."""
    syncs = Syncs(monkeypatch)
    service.install(lambda _: None, start=False)
    assert syncs.lacks(service.path) == []


def test_a_service_of_a_user_that_does_not_linger_is_said_to_end(service: Service, systemd: FakeSystemd) -> None:
    """And what keeps it."""
    systemd.lingering = False
    said: list[str] = []
    service.install(said.append, start=True)
    assert any("loginctl enable-linger" in line for line in said)


def test_a_daemon_that_runs_already_is_left_alone(service: Service, systemd: FakeSystemd) -> None:
    """A second one would be refused by the lock; it is enabled for the next boot."""
    lock = DaemonLock(service.home)
    lock.take(this_process())
    said: list[str] = []
    service.install(said.append, start=True)
    lock.release()
    assert "user start" not in systemd.calls
    assert any("a daemon already runs in this home" in line for line in said)


def test_uninstalling_stops_it_and_leaves_the_home_as_it_was(service: Service, systemd: FakeSystemd) -> None:
    """Every file of it."""
    service.install(lambda _: None, start=True)
    before = {path: path.stat().st_mtime_ns for path in service.home.root.rglob("*")}
    systemd.calls.clear()
    service.uninstall(lambda _: None)
    assert not service.path.exists()
    assert systemd.calls == ["user disable", "user daemon-reload", "user reset-failed"]
    assert {path: path.stat().st_mtime_ns for path in service.home.root.rglob("*")} == before


def test_what_is_not_installed_is_refused(service: Service) -> None:
    """With what installs it."""
    for what in (lambda: service.uninstall(lambda _: None), service.status):
        with pytest.raises(UserError, match="no service is installed") as caught:
            what()
        assert "keepstep service install" in caught.value.advice


def test_without_systemd_another_way_is_named(home: Home, tmp_path: Path) -> None:
    """And nothing is written."""
    service = Service(home, "user", systemd=FakeSystemd(there=False), units=tmp_path / "units", environment={})
    with pytest.raises(UserError, match="does not run systemd") as caught:
        service.install(lambda _: None, start=True)
    assert "keepstep run --supervise" in caught.value.advice
    assert not (tmp_path / "units").exists()


def test_a_refusal_of_systemd_is_shown_in_its_words(service: Service, systemd: FakeSystemd) -> None:
    """With what to do where that is known."""
    systemd.failing = {"daemon-reload": "Failed to connect to bus: No medium found"}
    with pytest.raises(UserError, match="Failed to connect to bus") as caught:
        service.install(lambda _: None, start=True)
    assert "--system" in caught.value.advice


def test_the_status_is_what_systemd_says(service: Service) -> None:
    """With the line that the daemon last sent; and whether the unit is that of this keepstep."""
    service.install(lambda _: None, start=True)
    found = service.status()
    assert (found["active"], found["says"], found["pid"], found["restarts"]) == ("active", "training a=b.jsonl", 42, 3)
    assert found["enabled"]
    assert found["current"]
    service.path.write_text("[Service]\n", encoding="utf-8")
    assert not service.status()["current"]


def test_a_dry_run_shows_the_unit_and_changes_nothing(home: Home, tmp_path: Path) -> None:
    """On a machine without systemd too."""
    runner, environment = CliRunner(), {"XDG_CONFIG_HOME": str(tmp_path / "config"), "COLUMNS": "200"}
    for option in ("--dry-run", "--print"):
        shown = runner.invoke(app, ["service", "install", option, "--home", str(home.root)], env=environment)
        assert shown.exit_code == 0, shown.output
        assert "Type=notify" in shown.stdout
        assert f'"--home" "{home.root}"' in shown.stdout
    assert not (tmp_path / "config").exists()


def test_the_status_as_it_is_printed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plainly into a pipe."""
    service.install(lambda _: None, start=True)
    monkeypatch.setattr(service_module, "_service", lambda *_, **__: service)
    shown = CliRunner().invoke(app, ["service", "status"])
    assert "service   active (running)" in shown.stdout
    assert "says      training a=b.jsonl" in shown.stdout
    shown = CliRunner().invoke(app, ["service", "status", "--json"])
    assert '"restarts": 3' in shown.stdout
