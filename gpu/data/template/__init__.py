"""Chat templates: render messages and find which part the assistant says."""
