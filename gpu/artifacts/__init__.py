"""What is kept on disk: checkpoints, backups, their manifests, and the commit protocol."""
