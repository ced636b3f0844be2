"""Writes to the local database of Trackio, which `trackio show` reads.

Each point has an id from its journal record, so that Trackio ignores a repeated one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing

from trackio.sqlite_storage import SQLiteStorage

from cli.output.times import iso
from cli.report.writer import OverwritingWriter, Target
from projections.metrics import Group, Point

BATCH = 2_000
"""Points of one transaction."""


class Trackio(OverwritingWriter):
    """A run in the database of one project."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._database = SQLiteStorage.init_db(target.project)

    @property
    def place(self) -> str:
        """The command that shows the project."""
        return f"trackio show --project {self._target.project}"

    def last_step(self, group: Group) -> int:
        """The last step of the group in the database."""
        with closing(sqlite3.connect(self._database, timeout=30.0)) as database:
            (step,) = database.execute(
                "SELECT MAX(step) FROM metrics WHERE run_name = ? AND log_id LIKE ?",
                (self._target.run, self._log_id(group, "%")),
            ).fetchone()
        return -1 if step is None else int(step)

    def cut(self, group: Group, step: int) -> None:
        """Delete the rows of the group from `step` on."""
        with closing(sqlite3.connect(self._database, timeout=30.0)) as database, database:
            database.execute(
                "DELETE FROM metrics WHERE run_name = ? AND log_id LIKE ? AND step >= ?",
                (self._target.run, self._log_id(group, "%"), step),
            )

    def write(self, group: Group, points: Sequence[Point]) -> None:
        """Insert the points."""
        shown = [point for point in points if point.values]
        for start in range(0, len(shown), BATCH):
            batch = shown[start : start + BATCH]
            SQLiteStorage.bulk_log(
                project=self._target.project,
                run=self._target.run,
                metrics_list=[{f"{group}/{name}": value for name, value in each.values.items()} for each in batch],
                steps=[each.global_step for each in batch],
                timestamps=[iso(each.at) for each in batch],
                config={"home": self._target.id},
                log_ids=[self._log_id(group, str(each.seq)) for each in batch],
            )

    def _log_id(self, group: Group, seq: str) -> str:
        return f"keepstep-{self._target.id}-{group}-{seq}"
