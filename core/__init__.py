"""The state machine: what the journal means, which commands are allowed, and which work the state still requires.

Pure: no clock, paths, randomness or I/O; they come in as arguments. Read `transitions.py` first, then `state.py`. Each
file in `topics/` holds one slice of the state with its rules: commands in, events in, effects out. `decide.py`,
`evolve.py` and `effects.py` only put the topics together.
"""
