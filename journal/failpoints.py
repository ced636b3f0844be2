"""Failpoints: named places where a test can kill the process.

`KEEPSTEP_FAILPOINT=renamed` kills the process with SIGKILL, as a power cut would, when `failpoint("renamed")` is
called; `KEEPSTEP_FAILPOINT=renamed:3` at the third such call. With `KEEPSTEP_FAILPOINT_ONCE=FILE` only one process
dies: it creates the file first, and no process dies while the file exists. Without the first variable nothing happens.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

WORKER = {
    "prepare_asked": "an order to prepare was received, nothing is done",
    "row_prepared": "a row is tokenized; once for each row",
    "tokens_written": "all rows are tokenized and written, and not committed",
    "tokens_kept": "the tokens have their final name, which is synced; nothing is planned",
    "prepared": "the plan is made, and not reported",
    "prepared_reported": "the plan is reported",
    "loading": "an order to train was received, the model is not loaded yet",
    "loaded": "weights and optimizer are loaded, and this is not reported",
    "loaded_reported": "the load is reported, no step is done",
    "evaluated_rows": "the loss of some held-out rows is computed; once for each micro-batch",
    "evaluated": "the loss of all held-out rows is computed, and not reported",
    "token_generated": "the next token of some samples is computed; once for each",
    "answered": "some samples are complete, and not reported; once for each batch",
    "job_rows_evaluated": "the held-out rows are scored at the end of a job, and no question is answered",
    "job_evaluated": "the evaluation at the end of a job is complete, and not reported",
    "step": "a step is done, and not reported; once for each step",
    "file_written": "a file of a checkpoint is written and synced; once for each file",
    "before_manifest": "all files are written and synced, the manifest is not begun",
    "staging_written": "the manifest is written and synced, the directory is not synced",
    "staging_fsynced": "the directory is synced, under its staging name",
    "renamed": "the directory has its final name, which is synced",
    "before_report": "a checkpoint is complete, and not reported",
    "reported": "the checkpoint is reported, and not journaled as far as the worker knows",
    "yield_seen": "the work in progress saw the request to yield, and stopped",
    "yield_saved": "everything reported is committed, and the yield is not reported",
    "yielded": "the yield is reported",
}
"""The failpoints of the worker in the order of a job, and what is true there."""

CONSOLIDATION = {
    "consolidating": "an order to consolidate was received, nothing is done",
    "backed_up": "a copy of the head is in backups/, and not reported",
    "merged": "the version is written under its staging name, and not reported",
    "verified": "the logits of the version are checked, and not reported",
    "before_version_report": "the version has its final name, and is not reported",
    "version_reported": "the version is reported, and not journaled as far as the worker knows",
}
"""The failpoints of a consolidation. It also reaches those of every commit, from `file_written` to `renamed`: once in
`backups/`, once in `versions/`."""

SELF_CORRECTION = {
    "corrected": "prompts are answered and judged for self-correction, and this is not reported",
    "correction_staged": "the file of self-correction is written, and not accepted",
    "correction_accepted": "the file of self-correction is in the queue, and this is not journaled as its outcome",
}
"""The failpoints of self-correction: the first one in the worker, the others in the daemon."""

EVALUATION = {
    "evaluating_version": "an order to evaluate a version was received, nothing is done",
    "parent_evaluated": "the parent of the version is evaluated, the version is not",
    "evaluation_measured": "everything is measured, and not written; at the end of a job, too",
    "evaluation_written": "the results are durable, and not reported; at the end of a job, too",
    "evaluation_reported": "the results are reported, and not journaled as far as the worker knows",
}
"""The failpoints of the evaluation of a version. It also reaches `evaluated_rows`, `token_generated`, `answered`."""

DAEMON = {
    "arrival_moved": "a file was moved from the inbox into the home, and is not journaled",
    "arrival_copied": "a file was copied into the home by `keepstep add`, and is not journaled",
    "arrival_journaled": "`file_enqueued` is journaled, the file does not have its final name",
    "arrival_named": "the file has its final name",
    "report_written": "the report of a rejected file is written, the file is not moved",
    "rejected_moved": "the rejected file is next to its report, and this is not journaled",
    "yield_asked": "a pause, a skip or a stop is journaled, and the worker was asked to yield",
    "worker_ended": "the worker of a failed attempt has ended, its leftover files are not swept",
    "checkpoint_reported": "the daemon received the report of a checkpoint, and has not journaled it",
    "results_reported": "the daemon received the report of an evaluation, and has not journaled it",
    "brought_back": "the head is restored, and this is not journaled",
    "pruned": "a checkpoint to delete is renamed, and not deleted",
}
"""The failpoints of the daemon and the commands. In addition there is one after every event, `journaled_` and its kind:
in the process that journals it, before it has any effect, and in a daemon that reads it from another process."""

POINTS = WORKER | CONSOLIDATION | SELF_CORRECTION | EVALUATION | DAEMON

_calls: Counter[str] = Counter()


def failpoint(point: str) -> None:
    """Kill this process if the environment names `point`, which is one of POINTS."""
    assert point in POINTS, f"{point} is in no table of journal/failpoints.py"
    _die_if_requested(point)


def journaled_failpoint(kind: str) -> None:
    """Kill this process after an event of this kind if the environment says so. Only the event store calls this."""
    _die_if_requested(f"journaled_{kind}")


def _die_if_requested(point: str) -> None:
    wanted = os.environ.get("KEEPSTEP_FAILPOINT")
    if not wanted:
        return
    name, _, count = wanted.partition(":")
    if name != point:
        return
    _calls[point] += 1
    if _calls[point] == int(count or 1):
        once = os.environ.get("KEEPSTEP_FAILPOINT_ONCE")
        if once and os.path.exists(once):  # noqa: PTH110  # a path from the environment, used once
            return
        if once:
            os.close(os.open(once, os.O_CREAT | os.O_WRONLY))
        os.kill(os.getpid(), signal.SIGKILL)
