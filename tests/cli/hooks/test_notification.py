"""Notifications: what is sent, and what is said when it is not. apprise itself is not part of these tests: a stand-in
with the few calls that are made of it notes what it is given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.home.subprocesses import command
from cli.hooks.notification import Message, text_of

STAND_IN = """
class Apprise:
    def add(self, url):
        self.url = url
        return "wrong" not in url

    def notify(self, *, title, body):
        with open("sent", "a") as file:
            print(self.url, title, body, sep="|", file=file)
        return "down" not in self.url
"""

SUMMARY = {"title": "keepstep: waiting for you", "message": "no model", "advice": "fix it"}


def notified(directory: Path, *urls: str, installed: bool = True, template: str = "{{ message }}!") -> Any:
    """What became of a notification."""
    if installed:
        (directory / "apprise.py").write_text(STAND_IN, encoding="utf-8")
    else:
        (directory / "apprise.py").write_text("raise ImportError", encoding="utf-8")
    said = json.dumps({"urls": urls, "template": template, "summary": SUMMARY})
    path = f"{directory}{os.pathsep}{Path(__file__).parents[3]}"
    return subprocess.run(
        command("cli.hooks.notification"),
        input=said,
        capture_output=True,
        text=True,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )


def test_a_notification_goes_to_every_address(tmp_path: Path) -> None:
    """Title and text; an address that fails does not keep the others from theirs."""
    done = notified(tmp_path, "down://secret", "wrong://secret", "json://secret")
    sent = (tmp_path / "sent").read_text(encoding="utf-8").splitlines()
    assert sent == [f"{kind}://secret|keepstep: waiting for you|no model!" for kind in ("down", "json")]
    assert done.returncode == 1
    assert "down: the service did not accept it" in done.stderr
    assert "wrong: apprise does not understand this address" in done.stderr
    assert "json: sent" in done.stdout
    assert "secret" not in done.stdout + done.stderr


def test_without_apprise_it_says_what_to_install(tmp_path: Path) -> None:
    """It is an extra."""
    done = notified(tmp_path, "json://x", installed=False)
    assert done.returncode == 1
    assert "pip install 'keepstep[notify]'" in done.stderr


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ title }}{% if advice %} → {{ advice }}{% endif %}", "keepstep: waiting for you → fix it"),
        ("{{ nothing }}", ""),
        ("{% if", "no model"),
        ("{{ 1 / 0 }}", "no model"),
        ("{{ message.__class__.__mro__ }}", "no model"),
        ("{{ cycler.__init__.__globals__ }}", "no model"),
    ],
)
def test_a_template_is_rendered_in_a_sandbox_or_the_plain_message_is_sent(
    template: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong template costs no message; one that reaches for Python gets nothing."""
    assert text_of(Message(("json://x",), template, SUMMARY)) == text
    assert ("is wrong" in capsys.readouterr().out) == (text == "no model")


def test_nothing_of_it_is_loaded_by_the_daemon() -> None:
    """apprise and jinja2 live and die with the process that sends."""
    code = (
        "import cli.daemon.loop, cli.hooks.dispatch, sys; sys.exit('apprise' in sys.modules or 'jinja2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False).returncode == 0
