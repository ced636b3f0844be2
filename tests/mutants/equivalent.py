"""Mutants that no test can see, each with the reason. Short, or it is worth nothing."""

from __future__ import annotations

EQUIVALENT: dict[str, str] = {}
"""Description → why the program with this taken away keeps the same promise. `make mutants` runs them all the same, and
fails if one is killed after all or is not found any more."""
