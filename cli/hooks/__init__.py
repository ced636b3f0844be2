"""Hooks: commands and notifications that run when something has happened."""
