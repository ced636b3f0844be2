"""The systemd unit of a home, as text: https://www.freedesktop.org/software/systemd/man/systemd.service.html."""

from __future__ import annotations

import hashlib
import os
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from cli.errors import DAMAGED, INTERRUPTED, REFUSED, STORAGE_FAILED
from cli.supervision.sd_notify import WATCHDOG_TIMEOUT_S
from cli.supervision.supervisor import ABORT_S, CRASHES_MAX, START_S, USAGE, WITHIN_S

Manager = Literal["user", "system"]

RESTART_S = 2.0
"""Long enough that a crash at the start is no busy loop. systemd stops after CRASHES_MAX of them within WITHIN_S."""

STOP_S = 300.0
"""Time to finish and commit a step. A step that takes longer is killed and runs again, with the same bits."""

CARRIED = ("CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
"""Variables that decide what is loaded and computed. They are copied, because a service does not inherit those of a
shell. None is a secret: every user can read a unit."""

NAME_MAX = 200
"""Bytes. systemd and file systems allow 255; a longer name is cut and ends in a checksum."""

_PLAIN = frozenset(string.ascii_letters + string.digits + ":_.")
_NOT_FOR_LISTS = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def unit_name(home: Path) -> str:
    """The name of the unit of a home. Each home has its own unit."""
    escaped = escape_path(os.fspath(home))
    if len(escaped) > NAME_MAX:
        digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
        escaped = f"{escape_path(home.name)[: NAME_MAX - 20]}-{digest}"
    return f"keepstep-{escaped}.service"


def escape_path(path: str) -> str:
    """Escape a path as `systemd-escape --path` does."""
    parts = [part for part in path.split("/") if part]
    if not parts:
        return "-"
    escaped = "-".join("".join(_escaped(byte) for byte in os.fsencode(part)) for part in parts)
    return f"\\x2e{escaped[1:]}" if escaped.startswith(".") else escaped


def _escaped(byte: int) -> str:
    return chr(byte) if chr(byte) in _PLAIN else f"\\x{byte:02x}"


def quoted(word: str, *, variables: bool = False) -> str:
    """Quote one word of a setting: escape quotes, backslashes, `%` (a specifier) and bytes that are not printable.

    With `variables` (for the arguments of a command) escape `$` too.
    """
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    if variables:
        text = text.replace("$", "$$")
    text = "".join(
        char
        if char.isprintable() and not "\ud800" <= char <= "\udfff"
        else "".join(f"\\x{byte:02x}" for byte in os.fsencode(char))
        for char in text
    )
    return f'"{text}"'


def unit_text(
    home: Path, command: Sequence[str], manager: Manager, *, user: str | None = None, environment: Mapping[str, str]
) -> str:
    """The unit of `home`.

    `command` runs its daemon; the first word is an absolute path. `user` runs it under the system manager; None: root.
    `environment` belongs to the user who installs the unit; the variables in `CARRIED` are copied.
    """
    program, *arguments = command
    exec_start = " ".join([quoted(program), *(quoted(argument, variables=True) for argument in arguments)])
    path = os.fspath(home)
    is_for_lists = not _NOT_FOR_LISTS.search(path)
    unit = [f"Description=keepstep in {_one_line(path)}"]
    if manager == "system" and is_for_lists:
        unit.append(f"RequiresMountsFor={quoted(path)}")  # wait until its disk is mounted
    unit += [f"StartLimitIntervalSec={WITHIN_S:.0f}", f"StartLimitBurst={CRASHES_MAX}"]
    service = [
        "Type=notify",
        f"ExecStart={exec_start}",
        *([f"User={user}"] if user and manager == "system" else []),
        *(f"Environment={quoted(f'{name}={environment[name]}')}" for name in CARRIED if environment.get(name)),
        "",
        "# Restart after a crash or a hang, but not where a person is needed (refused, damaged, disk failing).",
        "Restart=on-failure",
        f"RestartSec={RESTART_S:.0f}",
        f"RestartPreventExitStatus={REFUSED} {USAGE} {DAMAGED} {STORAGE_FAILED}",
        f"SuccessExitStatus={INTERRUPTED}",
        f"WatchdogSec={WATCHDOG_TIMEOUT_S:.0f}",
        f"TimeoutAbortSec={ABORT_S:.0f}",
        f"TimeoutStartSec={START_S:.0f}",
        "",
        "# Only the daemon gets the signal: it commits, and ends its worker itself.",
        "KillMode=mixed",
        f"TimeoutStopSec={STOP_S:.0f}",
        "# The daemon handles a worker that runs out of memory.",
        "OOMPolicy=continue",
        "# A core dump has the size of a model and would fill the disk.",
        "LimitCORE=0",
        *_hardening(home, manager),
    ]
    wanted_by = "multi-user.target" if manager == "system" else "default.target"
    sections = {"Unit": unit, "Service": service, "Install": [f"WantedBy={wanted_by}"]}
    return "\n".join("\n".join([f"[{name}]", *lines, ""]) for name, lines in sections.items())


def _hardening(home: Path, manager: Manager) -> list[str]:
    """The restrictions that keep the GPU usable.

    A setuid program makes the device nodes of the GPU at its first use. So NoNewPrivileges, and all settings that imply
    it (PrivateDevices, ProtectClock, system call filters), are impossible. Under the user manager, a separate namespace
    is not available on every system.
    """
    if manager == "user":
        return []
    protected = [Path(place) for place in ("/usr", "/boot", "/efi", "/etc")]
    protect = [] if any(home.is_relative_to(place) for place in protected) else ["ProtectSystem=full"]
    return ["", *protect, "ProtectControlGroups=yes"]


def _one_line(path: str) -> str:
    """A path for the description of the unit."""
    return "".join(char if char.isprintable() else "?" for char in path).replace("%", "%%").replace("\\", "\\\\")
