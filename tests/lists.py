"""Helpers for tests of tables of images: an encoder, and how many images meet conditions."""

from __future__ import annotations

from pathlib import Path

import pytest

from sslfeat.features.writer import Options
from sslfeat.inference.encoder import Encoder
from sslfeat.retrieval.index import Index

OPTIONS = Options(part_size=16)


@pytest.fixture(scope="module")
def encoder(tiny: Path) -> Encoder:
    return Encoder.load(tiny, "cpu", 1)


def found(index: Index, *where: str) -> int:
    return int((index.search(index.vectors([0]), 100, where=where).rows >= 0).sum())
