"""The machine: what the journal means, what a command may do, and what the world still owes.

Pure: no clock, no paths, no randomness, no I/O. Read `transitions.py` first, then `evolve.py` (events in),
`decide.py` with `reports.py` (commands and facts in, events out) and `effects.py` (state in, effects out).
"""
