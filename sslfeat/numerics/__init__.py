"""Arithmetic on embeddings that every layer shares: similarity, bounds, random choice."""
