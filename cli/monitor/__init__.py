"""The monitor: a web page about one home, served by its own process."""
