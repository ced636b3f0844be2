"""Rounds of answers at step boundaries: samples and self-correction. They change no weights."""
