"""Backbones, pretext methods and training. This package alone needs no torch; its modules do."""
