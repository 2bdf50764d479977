"""Encoder networks by name."""
