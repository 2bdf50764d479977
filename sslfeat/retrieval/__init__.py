"""Indexes: built, tuned to a stated recall, searched and kept up to date."""
