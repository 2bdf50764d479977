"""Images that come, go and change, and what an index of them should hold, for tests."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa

from sslfeat import Index
from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval.vectors import COLUMNS, ArrayVectors
from sslfeat.storage.arrow import strings

DIM = 8


class Images:
    """What the index should hold: by path a version and a label, from which the vector follows."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.rows: dict[str, tuple[int, str]] = {}
        self.count = 0

    def new(self, count: int) -> None:
        for _ in range(count):
            self.count += 1
            self.rows[f"image {self.count}"] = (0, "a")

    def some(self) -> list[str]:
        return self.rng.sample(sorted(self.rows), self.rng.randint(1, max(1, len(self.rows) // 4)))

    def vector(self, path: str) -> FloatArray:
        return np.random.default_rng([int(path.split()[1]), self.rows[path][0]]).normal(size=DIM).astype(np.float32)

    def vectors(self, paths: list[str]) -> ArrayVectors:
        facts = [paths, [f"{path} {self.rows[path][0]}" for path in paths], [self.rows[path][1] for path in paths]]
        path, sha256, label = (strings(column) for column in facts)
        size = pa.array(np.ones(len(paths), np.int32))
        table = pa.table(dict(zip(COLUMNS, (path, sha256, size, size, label), strict=True)))
        return ArrayVectors(np.stack([self.vector(path) for path in paths]), table)

    def check(self, folder: Path) -> None:
        """Every image is found by its vector under its own name and label; nothing else is."""
        index = Index.load(folder)
        paths = sorted(self.rows)
        hits = index.search(np.stack([self.vector(path) for path in paths]), top=1)
        assert [hits.of(number)[0].path for number in range(len(paths))] == paths
        assert [hits.of(number)[0].label for number in range(len(paths))] == [self.rows[path][1] for path in paths]
        assert len(index) == len(paths)
        everything = index.search(self.vector(paths[0]), top=len(index.removed)).of(0)
        assert sorted(hit.path for hit in everything) == paths
