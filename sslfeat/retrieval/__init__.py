"""Finding pictures again: indexes, search, duplicates."""
