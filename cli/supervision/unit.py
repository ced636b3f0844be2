"""A home's systemd unit, as text: https://www.freedesktop.org/software/systemd/man/systemd.service.html."""

from __future__ import annotations

import hashlib
import os
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from cli.errors import DAMAGED, REFUSED, STORAGE_FAILED
from cli.supervision.sd_notify import SILENCE_S
from cli.supervision.supervisor import ABORT_S, AT_ONCE, CRASHES_MAX, START_S, USAGE, WITHIN_S

Manager = Literal["user", "system"]

RESTART_S = 2.0
"""Long enough that a crash at the start is no busy loop; CRASHES_MAX of them within WITHIN_S end it."""

STOP_S = 300.0
"""Until a step is done and committed. One that takes longer is run again, to the same bits."""

CARRIED = ("CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
"""Variables that decide what is loaded and how it is computed: a service does not have those of a shell. No secrets:
anybody may read a unit."""

NAME_MAX = 200
"""Of 255 bytes that systemd and file systems take; what is longer is shortened and has a checksum at its end."""

_PLAIN = frozenset(string.ascii_letters + string.digits + ":_.")
_NOT_FOR_LISTS = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def unit_name(home: Path) -> str:
    """The name of a home's unit: one home, one unit."""
    escaped = escape_path(os.fspath(home))
    if len(escaped) > NAME_MAX:
        digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
        escaped = f"{escape_path(home.name)[: NAME_MAX - 20]}-{digest}"
    return f"keepstep-{escaped}.service"


def escape_path(path: str) -> str:
    """As `systemd-escape --path`."""
    parts = [part for part in path.split("/") if part]
    if not parts:
        return "-"
    escaped = "-".join("".join(_escaped(byte) for byte in os.fsencode(part)) for part in parts)
    return f"\\x2e{escaped[1:]}" if escaped.startswith(".") else escaped


def _escaped(byte: int) -> str:
    return chr(byte) if chr(byte) in _PLAIN else f"\\x{byte:02x}"


def quoted(word: str, *, variables: bool = False) -> str:
    """One word of a setting, in quotes: blanks, quotes, backslashes, `%` (a specifier), whatever is no text, and with
    `variables` (in a command's arguments) `$`."""
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
    """The unit of `home`; `command` is what runs its daemon, its first word an absolute path. `user`: whom it runs as,
    under the system's manager; None: root. `environment`: that of whoever installs it; `CARRIED` goes in."""
    program, *arguments = command
    exec_start = " ".join([quoted(program), *(quoted(argument, variables=True) for argument in arguments)])
    path = os.fspath(home)
    is_for_lists = not _NOT_FOR_LISTS.search(path)
    unit = [f"Description=keepstep in {_one_line(path)}"]
    if manager == "system" and is_for_lists:
        unit.append(f"RequiresMountsFor={quoted(path)}")  # not before its disk is there
    unit += [f"StartLimitIntervalSec={WITHIN_S:.0f}", f"StartLimitBurst={CRASHES_MAX}"]
    service = [
        "Type=notify",
        f"ExecStart={exec_start}",
        *([f"User={user}"] if user and manager == "system" else []),
        *(f"Environment={quoted(f'{name}={environment[name]}')}" for name in CARRIED if environment.get(name)),
        "",
        "# Again after a crash, and when it hangs; not where a person is needed (refused, damaged, disk failing).",
        "Restart=on-failure",
        f"RestartSec={RESTART_S:.0f}",
        f"RestartPreventExitStatus={REFUSED} {USAGE} {DAMAGED} {STORAGE_FAILED}",
        f"SuccessExitStatus={AT_ONCE}",
        f"WatchdogSec={SILENCE_S:.0f}",
        f"TimeoutAbortSec={ABORT_S:.0f}",
        f"TimeoutStartSec={START_S:.0f}",
        "",
        "# The daemon alone is told to stop: it commits, and ends its worker itself.",
        "KillMode=mixed",
        f"TimeoutStopSec={STOP_S:.0f}",
        "# A worker that runs out of memory is the daemon's to deal with.",
        "OOMPolicy=continue",
        "# A core of a model's size would fill the disk.",
        "LimitCORE=0",
        *_hardening(home, manager),
    ]
    wanted_by = "multi-user.target" if manager == "system" else "default.target"
    sections = {"Unit": unit, "Service": service, "Install": [f"WantedBy={wanted_by}"]}
    return "\n".join("\n".join([f"[{name}]", *lines, ""]) for name, lines in sections.items())


def _hardening(home: Path, manager: Manager) -> list[str]:
    """What can be shut without shutting out the GPU: its device nodes are made by a setuid program when it is first
    used, so that neither NoNewPrivileges nor anything that implies it (PrivateDevices, ProtectClock, system call
    filters) will do. And under the user's manager a namespace of its own is not to be had everywhere."""
    if manager == "user":
        return []
    protected = [Path(place) for place in ("/usr", "/boot", "/efi", "/etc")]
    shut = [] if any(home.is_relative_to(place) for place in protected) else ["ProtectSystem=full"]
    return ["", *shut, "ProtectControlGroups=yes"]


def _one_line(path: str) -> str:
    """A path as a description shows it."""
    return "".join(char if char.isprintable() else "?" for char in path).replace("%", "%%").replace("\\", "\\\\")
