"""Persistent data structures: a change gives a new value, costs the same at any size, and leaves the old value as it
was."""
