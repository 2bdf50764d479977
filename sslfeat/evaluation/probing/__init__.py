"""Probes: labels, splits, linear and nearest-neighbor classifiers, confidence intervals."""
