"""Data formats: recognise a row by its keys and turn it into an example."""
