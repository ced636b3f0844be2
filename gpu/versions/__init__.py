"""Versions: consolidation, merging, export, and the rehearsal of both."""
