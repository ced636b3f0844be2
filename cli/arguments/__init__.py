"""Arguments of commands: what a user may name, how the shell completes it, where options may stand."""
