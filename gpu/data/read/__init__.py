"""Read records from data files, whatever container they are in."""
