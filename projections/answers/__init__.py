"""Views of what the model answers while it trains: samples and self-correction."""
