"""Heads and decoders that sit on an encoder while it trains."""
