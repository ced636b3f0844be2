"""Processes: encode rows in parallel, check files, and locate rows for the shell."""
