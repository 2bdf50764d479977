"""``sslfeat serve``: a verified encoder and an index as a service."""
