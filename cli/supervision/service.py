"""`keepstep service`: the daemon of a home as a service of systemd's, started again when it crashes or hangs.

The unit itself is `unit.py`. Nothing here touches the home: what a service does is `keepstep run`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol

import typer

from cli.commands.common import HomeOption, JsonOption
from cli.errors import UserError
from cli.home.paths import Home, find_home
from cli.home.subprocesses import command
from cli.supervision.unit import Manager, unit_name, unit_text

app = typer.Typer(
    name="service",
    help="Have systemd run the daemon: from boot (or log-in) on, and again when it crashes or hangs.",
    no_args_is_help=True,
)

SystemOption = Annotated[
    bool, typer.Option("--system", help="The system's manager, from boot on; needs root. Else that of your user.")
]

WITHOUT = "`keepstep run --supervise` starts it again when it crashes or hangs, without systemd"
ASK_S = 60.0
"""For an answer of systemd's; but the one to stop waits for a commit, as long as the unit allows."""

SHOWN = (
    "LoadState",
    "UnitFileState",
    "ActiveState",
    "SubState",
    "Result",
    "StatusText",
    "MainPID",
    "NRestarts",
    "ActiveEnterTimestamp",
)


class Answer(NamedTuple):
    """What systemd said."""

    code: int
    text: str


class Systemd(Protocol):
    """systemd, as far as it is needed here. A port, so that a test needs none."""

    def is_there(self) -> bool:
        """Whether this machine was booted with it."""

    def systemctl(self, manager: Manager, *arguments: str) -> Answer:
        """Run `systemctl`."""

    def lingers(self) -> bool:
        """Whether the services of this user live on without a session of theirs."""


class RealSystemd:
    """The real one."""

    def is_there(self) -> bool:
        return Path("/run/systemd/system").is_dir() and shutil.which("systemctl") is not None

    def systemctl(self, manager: Manager, *arguments: str) -> Answer:
        from cli.supervision.unit import STOP_S

        ended = subprocess.run(
            [shutil.which("systemctl") or "systemctl", f"--{manager}", "--no-pager", "--no-ask-password", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=ASK_S + STOP_S,
        )
        return Answer(ended.returncode, (ended.stdout or ended.stderr).strip())

    def lingers(self) -> bool:
        return Path("/var/lib/systemd/linger", pwd.getpwuid(os.getuid()).pw_name).exists()


class Service:
    """The service of one home under one manager."""

    def __init__(
        self,
        home: Home,
        manager: Manager,
        *,
        systemd: Systemd | None = None,
        units: Path | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.home, self.manager = home, manager
        self.name = unit_name(home.root)
        self.path = (units or _units(manager, environment)) / self.name
        self._systemd = systemd or RealSystemd()
        self._environment = environment

    def text(self) -> str:
        """The unit."""
        owner = _owner(self.home.root) if self.manager == "system" else None
        runs = command("cli", "run", "--home", str(self.home.root))
        runs[0] = os.path.abspath(runs[0])  # noqa: PTH100 - a virtual environment is its link: not to be followed
        return unit_text(self.home.root, runs, self.manager, user=owner, environment=self._environment)

    def install(self, say: Callable[[str], None], *, start: bool) -> None:
        """Write the unit, have it started at each boot, and now (`start`). Once more is the same. Raises UserError."""
        from cli.home.identity import daemon_is_alive
        from journal.durable import write_atomically

        self._refuse_without_systemd()
        text = self.text().encode(errors="surrogateescape")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            changed = not self.path.exists() or self.path.read_bytes() != text
            if changed:
                write_atomically(self.path, text, sync=True)
        except PermissionError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror}", self._as_root()) from error
        self._do("daemon-reload")
        self._do("enable", self.name)
        say(f"{'wrote' if changed else 'unchanged'}  {self.path}")
        runs = self.properties().get("ActiveState") in {"active", "activating"}
        if runs:
            say(f"it runs already{'; `' + self._systemctl('restart') + '` has it run as this says' if changed else ''}")
        elif start and daemon_is_alive(self.home):
            say(f"a daemon runs in this home; when you have stopped it: `{self._systemctl('start')}`")
        elif start:
            self._do("start", self.name)
            say("started")
        if self.manager == "user" and not self._systemd.lingers():
            say("it ends when you log out, unless you say `loginctl enable-linger`")
        say(f"what it says  journalctl {'--user ' if self.manager == 'user' else ''}-u '{self.name}' -f")

    def uninstall(self, say: Callable[[str], None]) -> None:
        """Stop it behind a commit, and forget it. The home stays as it is. Raises UserError."""
        self._refuse_without_systemd()
        self._refuse_if_not_installed()
        self._do("disable", "--now", self.name)
        try:
            self.path.unlink(missing_ok=True)
        except PermissionError as error:
            raise UserError(f"{self.path} cannot be removed: {error.strerror}", self._as_root()) from error
        self._do("daemon-reload")
        self._systemd.systemctl(self.manager, "reset-failed", self.name)  # refused where it has not failed
        say(f"removed  {self.path}")
        say(f"{self.home.root} is as it was; `keepstep run` goes on in it")

    def properties(self) -> dict[str, str]:
        """What systemd says of it, by name. Raises UserError."""
        said = self._do("show", self.name, f"--property={','.join(SHOWN)}")
        return {name: value for name, found, value in (line.partition("=") for line in said.splitlines()) if found}

    def status(self) -> dict[str, Any]:
        """What it does. Raises UserError."""
        self._refuse_without_systemd()
        self._refuse_if_not_installed()
        found = self.properties()
        return {
            "unit": self.name,
            "path": str(self.path),
            "enabled": found.get("UnitFileState") == "enabled",
            "active": found.get("ActiveState", ""),
            "state": found.get("SubState", ""),
            "since": found.get("ActiveEnterTimestamp", ""),
            "result": found.get("Result", ""),
            "says": found.get("StatusText", ""),
            "pid": int(found.get("MainPID") or 0),
            "restarts": int(found.get("NRestarts") or 0),
            "current": self.path.read_bytes() == self.text().encode(errors="surrogateescape"),
        }

    def _do(self, *arguments: str) -> str:
        answer = self._systemd.systemctl(self.manager, *arguments)
        if answer.code != 0:
            if self.manager == "user" and "connect to bus" in answer.text:
                advice = "log in as that user in earnest (not by su or sudo), or take --system"
            else:
                advice = self._as_root() if self.manager == "system" and os.geteuid() != 0 else "mend that, then again"
            raise UserError(f"`{self._systemctl(arguments[0])}` failed: {answer.text or answer.code}", advice)
        return answer.text

    def _systemctl(self, what: str) -> str:
        return f"systemctl{' --user' if self.manager == 'user' else ''} {what} '{self.name}'"

    def _refuse_without_systemd(self) -> None:
        if not self._systemd.is_there():
            raise UserError("this machine does not run systemd, so there is no service to speak of", WITHOUT)

    def _refuse_if_not_installed(self) -> None:
        if not self.path.exists():
            other = "without --system" if self.manager == "system" else "with --system"
            raise UserError(
                f"no service is installed for {self.home.root}: there is no {self.path}",
                f"`keepstep service install` makes one; or was it installed {other}?",
            )

    def _as_root(self) -> str:
        runs = " ".join(command("cli", "service", "…", "--system", "--home", f"'{self.home.root}'"))
        return (
            f"as root: `sudo {runs}`; or leave --system out" if self.manager == "system" else "see to its permissions"
        )


@app.command()
def install(
    home: HomeOption = None,
    system: SystemOption = False,
    show: Annotated[
        bool, typer.Option("--dry-run", "--print", help="Print the unit and where it would go; change nothing.")
    ] = False,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Whether to start it now, too.")] = True,
) -> None:
    """Write a unit for this home, enable and start it."""
    service = _service(home, system=system)
    if show:
        print(f"# {service.path}")
        print(service.text(), end="")
        return
    service.install(typer.echo, start=start)


@app.command()
def uninstall(home: HomeOption = None, system: SystemOption = False) -> None:
    """Stop the service behind a commit and remove its unit; the home is not touched."""
    _service(home, system=system).uninstall(typer.echo)


@app.command()
def status(home: HomeOption = None, system: SystemOption = False, json: JsonOption = False) -> None:
    """Show what systemd says of it."""
    from cli.output.terminal import Row, print_json, print_report

    found = _service(home, system=system).status()
    if json:
        print_json(found)
        return
    well = found["active"] in {"active", "activating", "reloading"}
    rows = [
        Row("service", f"{found['active']} ({found['state']})", "bold" if well else "bold yellow"),
        *([Row("says", found["says"])] if found["says"] and well else []),
        *([Row("since", found["since"])] if found["since"] and well else []),
        *([Row("ended", found["result"], "yellow")] if found["result"] not in {"", "success"} else []),
        Row("restarts", str(found["restarts"])),
        Row("at boot", "yes" if found["enabled"] else "no; `keepstep service install` enables it"),
        Row("unit", found["path"]),
    ]
    if not found["current"]:
        rows.append(Row("", "it is not what this keepstep would write; `keepstep service install` renews it", "yellow"))
    print_report(rows)


def _service(home: Path | None, *, system: bool) -> Service:
    found = find_home(home, reads_only=True)
    return Service(Home(found.root.resolve()), "system" if system else "user")


def _units(manager: Manager, environment: Mapping[str, str]) -> Path:
    """Where units of a manager are put by whoever administers it."""
    if manager == "system":
        return Path("/etc/systemd/system")
    config = environment.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "systemd" / "user"


def _owner(root: Path) -> str | None:
    """Whom the daemon of a home runs as, so that its files stay theirs; None: root. Raises UserError."""
    uid = root.stat().st_uid
    if uid == 0:
        return None
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError as error:
        raise UserError(f"{root} belongs to user {uid}, who has no name here", "give it to one who has") from error
