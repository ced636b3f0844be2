"""Evaluations of versions and of the ends of jobs: held-out rows, questions from files, judging, results.

Only `score`, `questions`, `models`, `version` and `job_end` import torch."""
