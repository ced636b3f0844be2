"""The daemon: its loop, its worker, and the effects that it carries out."""
