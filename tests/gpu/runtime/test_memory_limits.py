"""Memory limits of control groups, in trees made here and on this machine."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from gpu.runtime import memory_limits
from gpu.runtime.memory_limits import (
    GroupMemory,
    MachineMemory,
    available_bytes,
    machine_memory,
    memory_of_groups,
    total_bytes,
)

GB = 10**9
V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNT = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
HYBRID = "36 31 0:33 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw"
V1_NONE = str(2**63 - 4096)


class Tree:
    """A `/proc/self` and a `/sys`."""

    def __init__(self, root: Path) -> None:
        self.root, self.proc = root, root / "proc" / "self"
        self.proc.mkdir(parents=True)

    def says(self, cgroup: str, *mounts: str) -> None:
        """Where we are, and what is mounted."""
        (self.proc / "cgroup").write_text(cgroup, "utf-8")
        (self.proc / "mountinfo").write_text("\n".join(("1 1 8:1 / / rw - ext4 /dev/sda rw", *mounts)) + "\n", "utf-8")

    def group(self, path: str, **files: str) -> None:
        """`memory_max="1"` is the file memory.max."""
        directory = self.root / path.lstrip("/")
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (directory / name.replace("_", ".", 1)).write_text(f"{content}\n", "ascii")

    def found(self) -> tuple[GroupMemory, ...]:
        return memory_of_groups(proc=self.proc, root=self.root)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def stat(active: int, inactive: int, *, total: str = "") -> str:
    return f"anon 1\nfile 2\n{total}inactive_file {inactive}\n{total}active_file {active}\ninactive_anon 7"


def test_a_unit_of_systemd_has_its_limit_and_that_of_its_slice(tree: Tree) -> None:
    """The innermost first; the cache of files can be had back; a group without a limit is none."""
    tree.says("0::/user.slice/keepstep.service\n", V2_MOUNT)
    tree.group("/sys/fs/cgroup/user.slice", memory_max="9000", memory_current="8000", memory_stat=stat(0, 0))
    tree.group(
        "/sys/fs/cgroup/user.slice/keepstep.service",
        memory_max="1000",
        memory_high="max",
        memory_current="900",
        memory_stat=stat(100, 200),
    )
    assert tree.found() == (
        GroupMemory("/user.slice/keepstep.service", 1000, 400),
        GroupMemory("/user.slice", 9000, 1000),
    )


def test_where_a_group_is_slowed_down_is_its_limit(tree: Tree) -> None:
    """`MemoryHigh=` of a unit."""
    tree.says("0::/a\n", V2_MOUNT)
    tree.group("/sys/fs/cgroup/a", memory_max="1000", memory_high="800", memory_current="500", memory_stat=stat(0, 0))
    assert tree.found() == (GroupMemory("/a", 800, 300),)


@pytest.mark.parametrize(
    "files",
    [
        {"memory_max": "max", "memory_high": "max", "memory_current": "5", "memory_stat": "file 1"},
        {"memory_max": "7"},
        {"memory_max": "seven", "memory_current": "5"},
        {},
    ],
)
def test_no_limit_or_nothing_to_be_read_is_none(tree: Tree, files: dict[str, str]) -> None:
    """The machine's memory counts alone."""
    tree.says("0::/a\n", V2_MOUNT)
    tree.group("/sys/fs/cgroup/a", **files)
    assert tree.found() == ()


def test_v1_has_other_names_and_a_number_for_no_limit(tree: Tree) -> None:
    """Next to an empty v2, as systemd mounts both; the controller is one of several of a line."""
    tree.says("5:cpu,cpuacct:/x\n4:hugetlb,memory:/docker/abc\n0::/\n", HYBRID, V1_MOUNT)
    tree.group("/sys/fs/cgroup/memory", memory_limit_in_bytes=V1_NONE, memory_usage_in_bytes="1")
    tree.group(
        "/sys/fs/cgroup/memory/docker/abc",
        memory_limit_in_bytes="2000",
        memory_usage_in_bytes="1500",
        memory_stat=stat(100, 300, total="total_") + "\n" + stat(7, 7),
    )
    assert tree.found() == (GroupMemory("/docker/abc", 2000, 900),)


@pytest.mark.parametrize(
    ("cgroup", "top"),
    [
        ("0::/\n", "/"),  # a separate namespace
        ("0::/docker/abc\n", "/docker/abc"),  # none: what is mounted is its own part
        ("0::/docker/abc\n", "/../../elsewhere"),  # what it is called outside is not to be seen
    ],
)
def test_a_container_sees_its_own_limit_at_the_mount_point(tree: Tree, cgroup: str, top: str) -> None:
    """However it is called outside."""
    tree.says(cgroup, f"30 23 0:26 {top} /sys/fs/cgroup ro - cgroup2 cgroup rw")
    tree.group("/sys/fs/cgroup", memory_max="1000", memory_current="600", memory_stat=stat(0, 0))
    assert tree.found() == (GroupMemory("/", 1000, 400),)


def test_more_in_use_than_allowed_leaves_nothing(tree: Tree) -> None:
    """A limit that was lowered; and counters are read one after the other."""
    tree.says("0::/a\n", V2_MOUNT)
    tree.group("/sys/fs/cgroup/a", memory_max="100", memory_current="120", memory_stat=stat(0, 0))
    assert tree.found()[0].available_bytes == 0
    tree.group("/sys/fs/cgroup/a", memory_current="10", memory_stat=stat(50, 0))
    assert tree.found()[0].available_bytes == 100


def test_without_control_groups_the_machine_counts(tmp_path: Path, tree: Tree) -> None:
    """Another system; a line that is none."""
    assert memory_of_groups(proc=tmp_path / "nowhere") == ()
    tree.says("nonsense\n", "nonsense")
    assert tree.found() == ()


def test_what_can_be_had_is_the_least_of_all(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the machine, the group, and the one around it."""
    monkeypatch.setattr(memory_limits, "machine_memory", lambda: MachineMemory(9 * GB, 7 * GB, 0))
    tree.says("0::/a/b\n", V2_MOUNT)
    assert available_bytes(proc=tree.proc, root=tree.root) == 7 * GB
    tree.group("/sys/fs/cgroup/a/b", memory_max=str(9 * GB), memory_current=str(GB), memory_stat=stat(0, 0))
    assert available_bytes(proc=tree.proc, root=tree.root) == 7 * GB
    tree.group("/sys/fs/cgroup/a", memory_max=str(4 * GB), memory_current=str(GB), memory_stat=stat(0, 0))
    assert available_bytes(proc=tree.proc, root=tree.root) == 3 * GB


def test_this_machine_can_be_asked() -> None:
    """Whatever its limits are."""
    for each in memory_of_groups():
        assert 0 <= each.available_bytes <= each.total_bytes
    assert 0 < available_bytes() <= total_bytes() <= psutil.virtual_memory().total


def test_the_memory_of_the_machine_is_what_psutil_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the kernel's file, and on a system that has none."""
    quick = machine_memory()
    monkeypatch.setattr(memory_limits, "MEMINFO", tmp_path / "none")
    slow = machine_memory()
    assert quick.total == slow.total == psutil.virtual_memory().total
    assert abs(quick.available - slow.available) < GB
    assert abs(quick.swap_used - slow.swap_used) < GB
