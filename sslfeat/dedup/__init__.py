"""Duplicates: found by features, verified by pixels, moved aside and put back."""
