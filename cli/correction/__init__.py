"""Files of self-correction: their rows, and how one is written and queued."""
