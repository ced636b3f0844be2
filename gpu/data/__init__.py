"""A data file on its way to batches: read, checked, tokenised, planned.

No torch: the same code runs before any GPU time, in the worker and behind `keepstep data check`.
"""
