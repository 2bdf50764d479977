"""Write, read, update and verify features folders."""
