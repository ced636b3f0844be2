"""Artifacts on disk: checkpoints, versions and backups, their manifests, and the commit protocol."""
