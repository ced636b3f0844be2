"""Views of the journal: the status file and the snapshot. Folded from events, disposable, rebuilt by replay."""
