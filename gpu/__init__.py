"""The worker: prepares data, trains, saves checkpoints, and merges them into versions.

The daemon starts it as a separate process (`worker.py`) and talks to it over a socket (`ipc/connection.py`). Read
`training/loop.py` first. The shell never loads torch, so these modules must not: `data/`, `ipc/`, `runtime/` except
`arithmetic`, `determinism` and `faults`, `artifacts/` except `checkpoint`, `model/tokenizer` and what that imports.
"""
