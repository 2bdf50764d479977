"""Judging an encoder by its features: probes, neighbours, clusters, figures without labels, maps and reports."""
