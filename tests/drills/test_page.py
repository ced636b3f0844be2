"""The page has a row for every drill; `make drills` writes them."""

from __future__ import annotations

from tests.drills.conftest import PAGE, rows_of
from tests.drills.test_crashes import DEATHS
from tests.drills.test_full_disk import FULL
from tests.drills.test_hangs import STUCK
from tests.drills.test_memory_and_loss import ROWS as MEMORY_AND_LOSS
from tests.drills.test_room_and_config import ROWS as ROOM_AND_CONFIG


def test_every_drill_has_a_row() -> None:
    """What it detected, how long that took, what was lost, what it did; and nothing committed was lost by any."""
    rows = rows_of(PAGE.read_text(encoding="utf-8"))
    assert {each[0] for each in (*DEATHS, *STUCK, *FULL)} | {*MEMORY_AND_LOSS, *ROOM_AND_CONFIG} <= set(rows)
    assert all(all(row) for row in rows.values())
    assert all(row.lost.startswith(("nothing", "–")) for row in rows.values())
