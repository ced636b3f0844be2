"""The shell: commands, the daemon, the inbox, the config. It wires the pure parts to the world."""
