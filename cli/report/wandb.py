"""Writes to Weights & Biases, or to its files with WANDB_MODE=offline.

The step that W&B counts is the number of the journal record. W&B ignores a step that it has, so nothing is stored
twice. Charts use `global_step`. The key, the host and the mode come from the environment, as W&B reads them.
"""

from __future__ import annotations

from collections.abc import Sequence

import wandb

from cli.report.writer import Target, Writer
from projections.metrics import Group, Point


class WeightsAndBiases(Writer):
    """A run of W&B. It sends metrics alone: no code, no git state, no machine data, no console output."""

    def __init__(self, target: Target) -> None:
        self._directory = target.directory
        self._run = wandb.init(
            project=target.project,
            id=target.id,
            name=target.run,
            dir=str(target.directory),
            resume="allow",
            settings=wandb.Settings(
                console="off",
                disable_code=True,
                disable_git=True,
                save_code=False,
                silent=True,
                x_disable_machine_info=True,
                x_disable_meta=True,
                x_disable_stats=True,
            ),
        )
        self._run.define_metric("global_step")
        self._run.define_metric("*", step_metric="global_step")

    @property
    def place(self) -> str:
        """The address of the run, or the command that uploads it later."""
        return self._run.url or f"wandb sync {self._directory}/wandb/offline-run-*"

    def write(self, group: Group, points: Sequence[Point]) -> None:
        """Send the points to the process of W&B, which keeps them on disk until they are uploaded."""
        for point in points:
            if point.values:
                values: dict[str, float] = {f"{group}/{name}": value for name, value in point.values.items()}
                values["global_step"] = point.global_step
                self._run.log(values, step=point.seq, commit=True)  # else it waits for the next step

    def close(self) -> None:
        """Wait until W&B has stored everything."""
        self._run.finish()
