"""`keepstep data`: check files before training (what is wrong, preview, cost, advice), and show their reports."""
