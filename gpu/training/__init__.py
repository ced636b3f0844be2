"""Training: the loop, the loss, the learning rate, evaluation, and saving."""
