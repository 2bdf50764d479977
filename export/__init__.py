"""Export of trained and third-party networks to verified encoder files, and of encoder files to other runtimes."""
