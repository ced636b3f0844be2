"""What is said of memory and of keepstep.toml."""

from __future__ import annotations

import pytest

from cli.output.console_resources import line_of
from events.kinds import Change, ConfigChanged, ConfigFixed, ConfigRefused, MemoryLow, MemoryRecovered

GB = 10**9


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            MemoryLow(total_bytes=100 * GB, available_bytes=5 * GB, worker_bytes=10 * GB, grace_s=30.0, at=0.0),
            "waiting for memory: others use 85.0 of 100.0 GB beside the worker's 10.0 GB; what runs ends behind its "
            "next commit if that lasts 30 s",
        ),
        (MemoryRecovered(available_bytes=50 * GB), "there is memory enough again (50.0 GB)"),
        (
            ConfigChanged(job="a", changes=(Change("training.epochs", "1", "2"), Change("data.prompt", "", '"q"'))),
            'a.jsonl is the first under a changed keepstep.toml: training.epochs 1 → 2, data.prompt unset → "q"',
        ),
        (
            ConfigChanged(job=None, changes=(Change("disk.soft_gb", "0.0", "1.0"),)),
            "keepstep.toml was changed: disk.soft_gb 0.0 → 1.0",
        ),
        (ConfigRefused(reason="r", advice="a"), "keepstep.toml was changed and is not used: r\n→ a"),
        (ConfigFixed(), "keepstep.toml can be used again"),
    ],
)
def test_each_is_a_sentence(event: MemoryLow, line: str) -> None:
    """With figures and keys."""
    assert line_of(event, lambda job: f"{job}.jsonl") == line
