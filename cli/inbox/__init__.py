"""The inbox: which files are complete, and how a file becomes a job."""
