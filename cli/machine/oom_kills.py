"""Count the processes that the kernel's OOM killer ended."""

from __future__ import annotations

from pathlib import Path

VMSTAT = Path("/proc/vmstat")
CGROUP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")


def count_oom_kills(*, vmstat: Path = VMSTAT, cgroup: Path = CGROUP, cgroups: Path = CGROUPS) -> int:
    """OOM kills in this process's control group, or on the machine if the group is unknown. 0 if the system does not
    count them."""
    for path in (_own_events(cgroup, cgroups), vmstat):
        count = _count(path) if path is not None else None
        if count is not None:
            return count
    return 0


def _own_events(cgroup: Path, cgroups: Path) -> Path | None:
    """`memory.events` of this process's group (cgroup v2: the line that begins with `0::`)."""
    try:
        lines = cgroup.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError):
        return None
    own = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
    return None if own is None else cgroups / own.lstrip("/") / "memory.events"


def _count(path: Path) -> int | None:
    """The number in the line `oom_kill N`."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeError):
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
