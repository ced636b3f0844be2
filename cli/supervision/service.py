"""`keepstep service`: run the daemon of a home as a systemd service, which restarts it after a crash or a hang.

`unit.py` makes the text of the unit, which runs `keepstep run`. No command here changes the home.
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
from cli.output.terminal import say
from cli.supervision.unit import Manager, unit_name, unit_text

app = typer.Typer(
    name="service",
    help="Have systemd run the daemon: start it at boot (or log-in), restart it when it crashes or hangs.",
    no_args_is_help=True,
)

SystemOption = Annotated[
    bool,
    typer.Option("--system", help="Use the system manager: starts at boot, needs root. Default: your user's manager."),
]

WITHOUT_SYSTEMD = "`keepstep run --supervise` restarts the daemon when it crashes or hangs, without systemd"
ANSWER_S = 60.0
"""Time for systemd to answer. A stop may take STOP_S longer, because it waits for a commit."""

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
    """The exit code and the output of `systemctl`."""

    code: int
    text: str


class Systemd(Protocol):
    """The parts of systemd that are used here. A port, so that tests need no systemd."""

    def is_there(self) -> bool:
        """True if this machine was booted with systemd."""

    def systemctl(self, manager: Manager, *arguments: str) -> Answer:
        """Run `systemctl`."""

    def lingers(self) -> bool:
        """True if the services of this user keep running after log-out."""


class RealSystemd:
    """The systemd of this machine."""

    def is_there(self) -> bool:
        return Path("/run/systemd/system").is_dir() and shutil.which("systemctl") is not None

    def systemctl(self, manager: Manager, *arguments: str) -> Answer:
        from cli.supervision.unit import STOP_S

        ended = subprocess.run(
            [shutil.which("systemctl") or "systemctl", f"--{manager}", "--no-pager", "--no-ask-password", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=ANSWER_S + STOP_S,
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
        """The text of the unit."""
        owner = _owner(self.home.root) if self.manager == "system" else None
        runs = command("cli", "run", "--home", str(self.home.root))
        runs[0] = os.path.abspath(runs[0])  # noqa: PTH100 - `resolve` would follow the link out of a virtual environment
        return unit_text(self.home.root, runs, self.manager, user=owner, environment=self._environment)

    def install(self, say: Callable[[str], None], *, start: bool) -> None:
        """Write the unit, enable it at each boot and, with `start`, start it now. Idempotent. Raises UserError."""
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
            say(f"it runs already{'; `' + self._systemctl('restart') + '` applies the new unit' if changed else ''}")
        elif start and daemon_is_alive(self.home):
            say(f"a daemon already runs in this home; after you stop it: `{self._systemctl('start')}`")
        elif start:
            self._do("start", self.name)
            say("started")
        if self.manager == "user" and not self._systemd.lingers():
            say("it stops when you log out; `loginctl enable-linger` keeps it running")
        say(f"its output  journalctl {'--user ' if self.manager == 'user' else ''}-u '{self.name}' -f")

    def uninstall(self, say: Callable[[str], None]) -> None:
        """Stop the service after a commit and remove the unit. The home does not change. Raises UserError."""
        self._refuse_without_systemd()
        self._refuse_if_not_installed()
        self._do("disable", "--now", self.name)
        try:
            self.path.unlink(missing_ok=True)
        except PermissionError as error:
            raise UserError(f"{self.path} cannot be removed: {error.strerror}", self._as_root()) from error
        self._do("daemon-reload")
        self._systemd.systemctl(self.manager, "reset-failed", self.name)  # systemd refuses if it has not failed
        say(f"removed  {self.path}")
        say(f"{self.home.root} is unchanged; `keepstep run` continues there")

    def properties(self) -> dict[str, str]:
        """The properties that systemd has of the service, by name. Raises UserError."""
        output = self._do("show", self.name, f"--property={','.join(SHOWN)}")
        return {name: value for name, found, value in (line.partition("=") for line in output.splitlines()) if found}

    def status(self) -> dict[str, Any]:
        """The status of the service, for `keepstep service status`. Raises UserError."""
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
                advice = "log in as that user directly (not by su or sudo), or use --system"
            else:
                advice = (
                    self._as_root() if self.manager == "system" and os.geteuid() != 0 else "fix that, then try again"
                )
            raise UserError(f"`{self._systemctl(arguments[0])}` failed: {answer.text or answer.code}", advice)
        return answer.text

    def _systemctl(self, verb: str) -> str:
        return f"systemctl{' --user' if self.manager == 'user' else ''} {verb} '{self.name}'"

    def _refuse_without_systemd(self) -> None:
        if not self._systemd.is_there():
            raise UserError("this machine does not run systemd, so it cannot run a service", WITHOUT_SYSTEMD)

    def _refuse_if_not_installed(self) -> None:
        if not self.path.exists():
            other = "without --system" if self.manager == "system" else "with --system"
            raise UserError(
                f"no service is installed for {self.home.root}: there is no {self.path}",
                f"`keepstep service install` installs it; or was it installed {other}?",
            )

    def _as_root(self) -> str:
        runs = " ".join(command("cli", "service", "…", "--system", "--home", f"'{self.home.root}'"))
        return f"as root: `sudo {runs}`; or leave out --system" if self.manager == "system" else "check its permissions"


@app.command()
def install(
    home: HomeOption = None,
    system: SystemOption = False,
    show: Annotated[
        bool, typer.Option("--dry-run", "--print", help="Print the unit and where it would go; change nothing.")
    ] = False,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Also start it now.")] = True,
) -> None:
    """Write a unit for this home, enable and start it."""
    service = _service(home, system=system)
    if show:
        print(f"# {service.path}")
        print(service.text(), end="")
        return
    service.install(say, start=start)


@app.command()
def uninstall(home: HomeOption = None, system: SystemOption = False) -> None:
    """Stop the service after a commit and remove its unit; the home is not touched."""
    _service(home, system=system).uninstall(say)


@app.command()
def status(home: HomeOption = None, system: SystemOption = False, json: JsonOption = False) -> None:
    """Show the status of the service."""
    from cli.output.terminal import ATTENTION, Row, print_json, print_report

    found = _service(home, system=system).status()
    if json:
        print_json(found)
        return
    well = found["active"] in {"active", "activating", "reloading"}
    rows = [
        Row("service", f"{found['active']} ({found['state']})", "bold" if well else f"bold {ATTENTION}"),
        *([Row("says", found["says"])] if found["says"] and well else []),
        *([Row("since", found["since"])] if found["since"] and well else []),
        *([Row("ended", found["result"], ATTENTION)] if found["result"] not in {"", "success"} else []),
        Row("restarts", str(found["restarts"])),
        Row("at boot", "yes" if found["enabled"] else "no; `keepstep service install` enables it"),
        Row("unit", found["path"]),
    ]
    if not found["current"]:
        rows.append(Row("", "differs from what this version writes; `keepstep service install` renews it", ATTENTION))
    print_report(rows)


def _service(home: Path | None, *, system: bool) -> Service:
    found = find_home(home, reads_only=True)
    return Service(Home(found.root.resolve()), "system" if system else "user")


def _units(manager: Manager, environment: Mapping[str, str]) -> Path:
    """The directory for units of a manager."""
    if manager == "system":
        return Path("/etc/systemd/system")
    config = environment.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "systemd" / "user"


def _owner(root: Path) -> str | None:
    """The owner of a home, who must also run its daemon; None: root. Raises UserError."""
    uid = root.stat().st_uid
    if uid == 0:
        return None
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError as error:
        raise UserError(f"{root} belongs to user {uid}, who has no name on this machine", "change its owner") from error
