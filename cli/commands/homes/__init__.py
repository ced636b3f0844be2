"""`keepstep home`: show, measure and move a home."""
