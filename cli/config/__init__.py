"""`keepstep.toml`: its schema, its template, and changes of single keys."""
