"""Text generation: a process that loads a model of a home and answers dialogues."""
