"""From pixels to embeddings: encoder files, their cards and checks, runtimes, quantization."""
