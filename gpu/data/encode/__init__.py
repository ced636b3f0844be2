"""Encode examples as token ids and labels."""
