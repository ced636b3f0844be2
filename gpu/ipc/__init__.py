"""Messages between the daemon, its worker and other processes of `gpu`."""
