"""Features in vector stores that people already run: pushed there, and searched there."""
