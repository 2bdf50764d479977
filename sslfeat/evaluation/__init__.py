"""How good an encoder is: probes, clusters, figures without labels, maps."""
