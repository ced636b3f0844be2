"""The monitor: a web page about one home, served by a process of its own."""
