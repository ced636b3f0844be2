"""Faster arithmetic for training steps. Each kernel repeats to the bit and is tested against the plain one."""
