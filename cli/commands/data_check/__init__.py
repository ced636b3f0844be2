"""`keepstep data check`: the report, the preview, what training will cost, and the advised settings."""
