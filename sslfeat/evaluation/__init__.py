"""Evaluation of features: probes, clustering, label-free metrics, maps."""
