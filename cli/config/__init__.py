"""`keepstep.toml`: its schema, its template, and how it is edited and watched."""
