"""Duplicates: candidates by features, verification by pixels, moving copies and undoing it."""
