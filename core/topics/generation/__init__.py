"""Topics in which the model answers prompts."""
