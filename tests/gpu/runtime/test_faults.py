"""Faults that a test asks for, and nothing without being asked."""

from __future__ import annotations

import pytest
import torch

from gpu.errors import is_out_of_memory
from gpu.runtime.faults import FAULTS, inject_out_of_memory, is_injected


def test_nothing_happens_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEEPSTEP_FAULTS", raising=False)
    assert not any(is_injected(fault, step) for fault in FAULTS for step in range(5))


def test_a_fault_strikes_at_its_step_while_too_many_are_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPSTEP_FAULTS", "forward:7,nan:9,backward:3:2")
    assert [step for step in range(12) if is_injected("forward", step, 4)] == [7]
    assert [step for step in range(12) if is_injected("nan", step)] == [9]
    assert not is_injected("forward", 7, 1)
    assert is_injected("backward", 3, 3)
    assert not is_injected("backward", 3, 2)
    assert not is_injected("update", 7, 4)


def test_memory_that_runs_out_is_known_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPSTEP_FAULTS", "update:1")
    with pytest.raises(torch.OutOfMemoryError) as caught:
        inject_out_of_memory("update", 1, 2)
    assert is_out_of_memory(caught.value)
    inject_out_of_memory("update", 2, 2)
