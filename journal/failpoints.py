"""Named places where a test may have the process killed.

`KEEPSTEP_CRASH_AT=renamed` kills the process with SIGKILL, as a power cut would, when `failpoint("renamed")` is
called; `KEEPSTEP_CRASH_AT=renamed:3` at the third such call. With `KEEPSTEP_CRASH_ONCE=FILE` it happens to one process
only: whoever dies makes the file, and where it is, nobody dies. Without the first variable nothing happens.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

WORKER = {
    "prepare_asked": "an order to prepare is taken up, nothing of it done",
    "row_prepared": "a row is tokenised; once for each",
    "tokens_written": "all rows are tokenised and written, and not committed",
    "tokens_kept": "they have their final name, and that is synced; nothing is planned",
    "prepared": "the plan is made, and nobody told",
    "prepared_reported": "the plan is told",
    "loading": "an order to train is taken up, the model not touched yet",
    "loaded": "weights and optimizer stand where the order said, and nobody told",
    "loaded_reported": "that is told, no step done",
    "evaluated_rows": "the loss of some held-out rows is computed; once for each micro-batch of them",
    "evaluated": "that of all of them is, and nobody told",
    "step": "a step is done, and nobody told; once for each",
    "file_written": "a file of a checkpoint is written and synced; once for each",
    "before_manifest": "all of them are, the manifest is not begun",
    "staging_written": "the manifest is written and synced too, its directory is not",
    "staging_fsynced": "the directory is synced, under its staging name",
    "renamed": "it has its final name, and that is synced",
    "before_report": "a checkpoint is whole, and nobody told",
    "reported": "that is told, and not journaled as far as the worker knows",
    "yield_seen": "the work in hand saw that it is to stop, and has stopped",
    "yield_saved": "everything that it reported is committed, and nobody told that it stands",
    "yielded": "that is told",
}
"""Every point in the worker, in the order of a job's life, and what is true there."""

CONSOLIDATION = {
    "consolidating": "an order to consolidate is taken up, nothing of it done",
    "backed_up": "a copy of the head stands in backups/, and nobody told",
    "merged": "the version is written under its staging name, and nobody told",
    "verified": "it answers as it must, and nobody told",
    "before_version_report": "it has its final name, and nobody told",
    "version_reported": "that is told, and not journaled as far as the worker knows",
}
"""The same of a consolidation. Between them it comes by those that every commit has, from `file_written` to `renamed`:
once in `backups/`, once in `versions/`."""

DAEMON = {
    "arrival_moved": "a file left the inbox and is in keepstep's hands, not journaled",
    "arrival_copied": "a copy of a file is in keepstep's hands, not journaled (`keepstep add`)",
    "arrival_journaled": "`file_enqueued` is journaled, the file has not its final name",
    "arrival_named": "the file has its final name",
    "report_written": "the report of a rejected file is written, the file not moved",
    "rejected_moved": "the file stands beside its report, and that is not journaled",
    "yield_asked": "a pause, a skip or a stop is journaled, and the worker told to yield",
    "worker_ended": "the worker of a failed attempt is gone, its debris not swept",
    "checkpoint_reported": "a checkpoint was reported, and is not journaled",
    "brought_back": "the head is back in its place, and that is not journaled",
    "pruned": "what is given up is renamed, not deleted",
}
"""Points in the daemon and the commands. Besides these there is one behind every event, `journaled_` and its kind: in
the process that journals it, before anything follows from it, and in a daemon that finds it written by another."""

POINTS = WORKER | CONSOLIDATION | DAEMON

_calls: Counter[str] = Counter()


def failpoint(point: str) -> None:
    """Die here if the environment says so. `point` is one of POINTS."""
    assert point in POINTS, f"{point} is in no table of journal/failpoints.py"
    _die_if_wanted(point)


def journaled(kind: str) -> None:
    """Die here, behind an event of this kind, if the environment says so. Called by the ledger alone."""
    _die_if_wanted(f"journaled_{kind}")


def _die_if_wanted(point: str) -> None:
    wanted = os.environ.get("KEEPSTEP_CRASH_AT")
    if not wanted:
        return
    name, _, count = wanted.partition(":")
    if name != point:
        return
    _calls[point] += 1
    if _calls[point] == int(count or 1):
        once = os.environ.get("KEEPSTEP_CRASH_ONCE")
        if once and os.path.exists(once):  # noqa: PTH110  # a path from the environment, asked about once
            return
        if once:
            os.close(os.open(once, os.O_CREAT | os.O_WRONLY))
        os.kill(os.getpid(), signal.SIGKILL)
