"""Clusterings: k-means and others, their metrics, their folder."""
