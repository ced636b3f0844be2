"""`versions export`, `checkpoints export` and `versions push`: take a model out of the home."""
