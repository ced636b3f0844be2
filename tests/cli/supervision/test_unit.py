"""The unit file: names and words as systemd reads them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli.supervision.unit import escape_path, quoted, unit_name, unit_text

HOMES = [
    "/srv/learning",
    "/home/me/my models",
    "/home/me/100% mine",
    "/home/me/$HOME",
    '/home/me/it\'s "quoted"',
    "/home/me/back\\slash",
    "/home/mü/lernen",
    "/home/me/-dash",
    "/home/me/tab\there",
    "/.hidden",
    "/",
]

needs_systemd = pytest.mark.skipif(shutil.which("systemd-escape") is None, reason="systemd is not installed")


@needs_systemd
@pytest.mark.parametrize("home", HOMES)
def test_names_are_escaped_as_systemd_does_it(home: str) -> None:
    """`systemd-escape --path` says the same."""
    said = subprocess.run(["systemd-escape", "--path", home], capture_output=True, text=True, check=True).stdout
    assert escape_path(home) == said.strip()


def test_each_home_has_its_own_unit() -> None:
    """Also where the names are too long for systemd, and differ only far back."""
    homes = [*HOMES, "/a/b", "/a-b", *(f"/{'x' * 300}/{last}" for last in ("a", "b"))]
    names = [unit_name(Path(home)) for home in homes]
    assert len(set(names)) == len(homes)
    assert all(len(name) < 256 and name.endswith(".service") for name in names)


def test_words_are_quoted_so_that_nothing_in_them_is_taken_for_more() -> None:
    """Specifiers, variables, quotes, backslashes, control characters; text of any language stays text."""
    assert quoted("a b") == '"a b"'
    assert quoted("100%") == '"100%%"'
    assert quoted("$HOME", variables=True) == '"$$HOME"'
    assert quoted("$HOME") == '"$HOME"'
    assert quoted('"\\') == '"\\"\\\\"'
    assert quoted("mü\n") == '"mü\\x0a"'
    assert quoted("\udcff") == '"\\xff"'


@needs_systemd
@pytest.mark.parametrize("manager", ["user", "system"])
@pytest.mark.parametrize("home", HOMES)
def test_systemd_finds_nothing_wrong_with_it(home: str, manager: str, tmp_path: Path) -> None:
    """`systemd-analyze verify` reads the file as systemd would, and says nothing of it."""
    command = ["/bin/sh", "-P", "-m", "cli", "run", "--home", home]
    text = unit_text(Path(home), command, manager, user="root", environment={"HF_HOME": "/a b/100%"})
    unit = tmp_path / "keepstep-test.service"
    unit.write_text(text, encoding="utf-8")
    verify = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", f"--{manager}", str(unit)]
    ran = subprocess.run(
        verify, capture_output=True, text=True, check=False, env={"XDG_RUNTIME_DIR": str(tmp_path), "PATH": "/usr/bin"}
    )
    assert unit.name not in ran.stdout + ran.stderr, ran.stderr


def test_what_means_that_a_person_is_needed_is_not_started_again() -> None:
    """And a crash is, within the minute; a worker without memory does not end the service."""
    text = unit_text(Path("/srv/h"), [sys.executable, "-P", "-m", "cli"], "user", environment={})
    lines = text.splitlines()
    for line in (
        "Type=notify",
        "Restart=on-failure",
        "RestartPreventExitStatus=1 2 3 4",
        "SuccessExitStatus=130",
        "WatchdogSec=40",
        "OOMPolicy=continue",
        "KillMode=mixed",
        "WantedBy=default.target",
    ):
        assert line in lines
    assert f'ExecStart="{sys.executable}" "-P" "-m" "cli"' in lines


def test_the_system_unit_runs_as_the_owner_and_waits_for_the_disk() -> None:
    """Shut where it can be shut without shutting out the GPU or the home."""
    text = unit_text(Path("/srv/h"), ["/python"], "system", user="me", environment={})
    assert "User=me\n" in text
    assert 'RequiresMountsFor="/srv/h"\n' in text
    assert "ProtectSystem=full\n" in text
    assert "PrivateDevices" not in text
    assert "NoNewPrivileges" not in text
    assert "ProtectSystem" not in unit_text(Path("/usr/local/h"), ["/python"], "system", environment={})


def test_no_secret_of_the_shell_goes_into_it() -> None:
    """Anybody may read a unit."""
    environment = {"HF_TOKEN": "hf_secret", "HF_HOME": "/cache", "PATH": "/bin"}
    text = unit_text(Path("/srv/h"), ["/python"], "user", environment=environment)
    assert 'Environment="HF_HOME=/cache"' in text
    assert "secret" not in text
    assert "PATH" not in text
