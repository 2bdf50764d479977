"""Features folders: written, read, updated and verified."""
