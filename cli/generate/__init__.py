"""Talk to a model of a home: find it by name, and speak to the process that generates text."""
