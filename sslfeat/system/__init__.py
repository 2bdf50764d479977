"""The machine: cores, signals, processes of their own."""
