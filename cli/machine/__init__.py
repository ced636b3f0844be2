"""Measure the machine: processors, memory, disks, GPUs, and the cost of the daemon itself."""
