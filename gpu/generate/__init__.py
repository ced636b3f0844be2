"""Text that a model generates."""
