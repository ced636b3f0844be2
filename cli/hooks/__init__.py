"""Hooks: commands and notifications that run on events."""
