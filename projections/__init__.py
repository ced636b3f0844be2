"""Views of the journal: status, timelines, lineage, snapshot. They are folded from events and can be rebuilt."""
