"""One file for each topic: its slice of the state, its commands, its events, its policy and its effects."""
