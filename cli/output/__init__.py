"""Output for people: events as console lines, tables and reports."""
