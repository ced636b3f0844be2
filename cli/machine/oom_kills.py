"""Whether the system ended a process because there was no memory left: it counts that, and says it to nobody."""

from __future__ import annotations

from pathlib import Path

VMSTAT = Path("/proc/vmstat")
CGROUP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")


def memory_kills(*, vmstat: Path = VMSTAT, cgroup: Path = CGROUP, cgroups: Path = CGROUPS) -> int:
    """How many processes it has ended so far: of our control group, where that is known, else of the machine. 0 where
    nobody counts (not Linux, an old kernel)."""
    for path in (_own_events(cgroup, cgroups), vmstat):
        count = _count(path) if path is not None else None
        if count is not None:
            return count
    return 0


def _own_events(cgroup: Path, cgroups: Path) -> Path | None:
    """`memory.events` of the group that this process is in (cgroup v2: the line that begins with `0::`)."""
    try:
        lines = cgroup.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError):
        return None
    own = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
    return None if own is None else cgroups / own.lstrip("/") / "memory.events"


def _count(path: Path) -> int | None:
    """The line `oom_kill N`."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeError):
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
