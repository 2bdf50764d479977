"""Pretext methods, one per file, named after their module; see ``sslfeat.models.method``."""
