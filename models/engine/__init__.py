"""Training: configuration, data, the loop, checkpoints, distribution, online evaluation."""
