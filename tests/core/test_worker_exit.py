"""What the end of a worker's process is called."""

from __future__ import annotations

import pytest

from core.failures import EXPLANATIONS
from core.worker_exit import CRASHES, Ending, classify
from events.values import Failure


@pytest.mark.parametrize(
    ("ending", "failure", "said"),
    [
        (Ending(killed_by="SIGKILL"), "killed", "was killed by SIGKILL, by a person"),
        (Ending(killed_by="SIGKILL", memory_kills=1), "out_of_memory", "the machine had no memory left"),
        (Ending(killed_by="SIGKILL", says="driver"), "killed", "SIGKILL"),
        (Ending(killed_by="SIGTERM"), "killed", "was killed by SIGTERM;"),
        (Ending(killed_by="SIGTERM", memory_kills=1), "killed", "SIGTERM"),
        *((Ending(killed_by=name), "code", f"{name}: a crash in native code") for name in sorted(CRASHES)),
        (Ending(killed_by="SIGABRT", says="memory"), "out_of_memory", "could not get the memory"),
        (Ending(killed_by="SIGABRT", says="driver"), "driver", "the GPU driver's"),
        (Ending(killed_by="signal 40"), "killed", "signal 40"),
        (Ending(exit_code=3), "code", "ended with exit code 3;"),
        (Ending(exit_code=0), "code", "ended with exit code 0;"),
        (Ending(exit_code=1, was_up=False), "code", "ended with exit code 1 before it was up"),
        (Ending(exit_code=1, says="memory"), "out_of_memory", "exit code 1"),
        (Ending(exit_code=1, says="driver"), "driver", "exit code 1"),
        (Ending(exit_code=1, memory_kills=3), "code", "exit code 1"),
    ],
)
def test_an_ending(ending: Ending, failure: Failure, said: str) -> None:
    """By signal, exit code, what the system counted, and the last words."""
    named, message = classify(ending)
    assert named == failure
    assert said in message
    assert "`keepstep logs`" in message
    assert failure in EXPLANATIONS
