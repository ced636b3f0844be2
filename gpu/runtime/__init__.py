"""What a worker process runs on: determinism, CPU features, memory limits, standard streams."""
