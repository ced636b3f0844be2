"""Run the daemon as a service and restart it: systemd units, the supervisor, the watchdog."""
