"""Distribute the parts of a features folder over processes and machines; the resulting bytes are identical."""
