"""The fake worker for disks that break: `python -m tests.crash.slow_worker`.

It is slow enough to be caught at work, and its checkpoints are large enough to fill a small disk.
"""

from __future__ import annotations

import time

from events.messages import Train
from tests.harness.worker import WorkerProcess, main

WEIGHTS_BYTES = 128 << 10
STEP_S = 0.03


class SlowWorker(WorkerProcess):
    """Steps take `STEP_S`; the weights fill `WEIGHTS_BYTES`."""

    weights_file = "weights.safetensors"

    def may_step(self, order: Train) -> bool:
        time.sleep(STEP_S)
        return True

    def contents(self) -> dict[str, bytes]:
        weights = self.weights.encode()
        return {self.weights_file: weights * (WEIGHTS_BYTES // len(weights))}


if __name__ == "__main__":
    main(SlowWorker)
