"""Commands that list: they take no lock and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cli.home import find_home
from cli.reading import read_only
from cli.terminal import print_json, print_listing


def show_queue(home_option: Path | None, *, json: bool) -> None:
    """`keepstep queue`."""
    folded, _ = read_only(find_home(home_option))
    state = folded.state
    rows: list[dict[str, Any]] = [
        {
            "id": job.id,
            "name": job.name,
            "status": job.status,
            "priority": job.priority,
            "size_bytes": job.size_bytes,
            "committed_step": job.committed_step,
        }
        for job in (*state.begun, *state.queue, *state.failed.values())
    ]
    if json:
        print_json(rows)
    elif not rows:
        print("nothing waits")
    else:
        print_listing(["id", "name", "status", "priority", "size"], [_queue_row(row) for row in rows])


def _queue_row(row: dict[str, Any]) -> list[str]:
    return [row["id"][:12], row["name"], row["status"], row["priority"], f"{row['size_bytes'] / 1e3:.1f} kB"]
