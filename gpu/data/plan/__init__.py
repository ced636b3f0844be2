"""Plan batches: encoded rows on disk, replay, held-out rows, and the order of training."""
