"""The count of OOM kills."""

from __future__ import annotations

from pathlib import Path

from cli.machine.oom_kills import count_oom_kills


def test_the_count_of_the_own_group_goes_before_that_of_the_machine(tmp_path: Path) -> None:
    """What was ended in another container is no news of ours."""
    cgroup, vmstat, group = tmp_path / "cgroup", tmp_path / "vmstat", tmp_path / "groups" / "user" / "keepstep"
    group.mkdir(parents=True)
    vmstat.write_text("nr_free_pages 1\noom_kill 7\n")
    cgroup.write_text("1:name=systemd:/other\n0::/user/keepstep\n")

    def count() -> int:
        return count_oom_kills(vmstat=vmstat, cgroup=cgroup, cgroups=tmp_path / "groups")

    assert count() == 7
    (group / "memory.events").write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert count() == 2
    cgroup.unlink()
    assert count() == 7


def test_where_nobody_counts_nobody_was_ended(tmp_path: Path) -> None:
    """Another system, an old kernel."""
    nowhere = tmp_path / "nowhere"
    assert count_oom_kills(vmstat=nowhere, cgroup=nowhere, cgroups=nowhere) == 0


def test_this_machine_can_be_asked() -> None:
    """Whatever it counts."""
    assert count_oom_kills() >= 0
