"""Examine a data file: what is found in its rows, and the report on it."""
