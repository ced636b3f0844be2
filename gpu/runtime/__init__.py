"""The environment of a worker process: determinism, CPU features, memory limits, standard streams."""
