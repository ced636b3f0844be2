"""Checks of keepstep.toml: unknown keys, values that are not allowed, keys that depend on each other, and use."""
