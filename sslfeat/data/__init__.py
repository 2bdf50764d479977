"""Images: which ones, what became of them, and how a file becomes pixels at the encoder's size."""
