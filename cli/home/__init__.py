"""A home: its paths, its layout, its event store and its locks."""
