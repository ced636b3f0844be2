"""`keepstep doctor`: checks of a home and its machine, one module for each area."""
