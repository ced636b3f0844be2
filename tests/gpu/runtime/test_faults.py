"""Faults that a test asks for, and nothing without being asked."""

from __future__ import annotations

import pytest
import torch

from gpu.errors import is_out_of_memory
from gpu.runtime.faults import FAULTS, run_out, strikes


def test_nothing_happens_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEEPSTEP_FAULTS", raising=False)
    assert not any(strikes(fault, step) for fault in FAULTS for step in range(5))


def test_a_fault_strikes_at_its_step_while_too_many_are_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPSTEP_FAULTS", "forward:7,nan:9,backward:3:2")
    assert [step for step in range(12) if strikes("forward", step, 4)] == [7]
    assert [step for step in range(12) if strikes("nan", step)] == [9]
    assert not strikes("forward", 7, 1)
    assert strikes("backward", 3, 3)
    assert not strikes("backward", 3, 2)
    assert not strikes("update", 7, 4)


def test_memory_that_runs_out_is_known_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPSTEP_FAULTS", "update:1")
    with pytest.raises(torch.OutOfMemoryError) as caught:
        run_out("update", 1, 2)
    assert is_out_of_memory(caught.value)
    run_out("update", 2, 2)
