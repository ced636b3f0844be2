"""The worker: rows become batches, batches become steps, steps become checkpoints.

The daemon starts it as a process of its own (`worker.py`) and talks to it over a socket (`link.py`). Read `train.py`
first. Torch is imported by the worker alone: what the daemon may import from here (`link`, `manifest`, `tensors`,
`commit`, `examine`, `crashpoints`, `errors`, `data`, `encoder`, `encoders`, `tokenizer`, `whereabouts`, `schedule`)
never loads it.
"""
