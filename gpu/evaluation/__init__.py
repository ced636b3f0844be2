"""Evaluation questions: read them from files, and judge the answers of a model. No torch."""
