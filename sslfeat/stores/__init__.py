"""Pushing features to vector stores, and searching there."""
