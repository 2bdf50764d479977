"""Operating system: cores, memory, signals, subprocesses."""
