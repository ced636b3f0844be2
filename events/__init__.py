"""What happened: the event types, their codec, and the words that the daemon and its worker exchange.

Start at `kinds.py`. Nothing here knows a file, a clock or a rule.
"""
