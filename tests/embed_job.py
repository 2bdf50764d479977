"""Embedding a folder of images with small batches and parts, for tests."""

from __future__ import annotations

from pathlib import Path

from sslfeat.data.dataset import find_inputs
from sslfeat.features.writer import Options, Summary, embed_to_folder
from sslfeat.inference.encoder import Encoder


def run(tiny: Path, images: Path, out: Path, part_size: int = 7, overwrite: bool = False) -> Summary:
    encoder = Encoder.load(tiny, "cpu", 1)
    return embed_to_folder(encoder, find_inputs([images]), out, Options(3, part_size), overwrite=overwrite)
