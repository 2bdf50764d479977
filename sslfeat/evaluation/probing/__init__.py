"""Probes: labels, splits, linear and nearest-neighbor classifiers, and their intervals."""
