"""Topics that measure the model while it trains, and change nothing of it: held-out rows, and samples."""
