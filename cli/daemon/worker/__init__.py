"""The worker as the daemon sees it: its process, its supervisor, its messages, and orphans of earlier daemons."""
