"""Versions: merge trained weights, publish or export the result, and rehearse both before training."""
