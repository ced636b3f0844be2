"""Events: their types, their codec, the settings that they carry, and the messages between the daemon and its worker.

Start at `kinds/`. Nothing here knows a file, a clock or a rule.
"""
