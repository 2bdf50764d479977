"""Heads and decoders that are trained on top of an encoder."""
