"""What everything that runs at the step boundaries of an attempt works with: samples, self-correction, the evaluation
of the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu.data.plan.prepare import PreparedJob
from gpu.ipc.worker_channel import Heartbeats, WorkerChannel
from gpu.model.build import TrainedModel
from gpu.model.limits import ModelLimits


@dataclass
class Attempt:
    """An attempt at a job whose model is loaded."""

    number: int
    home: Path
    prepared: PreparedJob
    trained: TrainedModel
    tokenizer: Callable[[], Any]
    """Loads it when it is first wanted, as `limits` does."""
    limits: Callable[[], ModelLimits]
    channel: WorkerChannel
    heartbeats: Heartbeats
