"""Rows for vector stores: drawn vectors, with paths and labels that mean something to SQL, to globs and to JSON."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval.vectors import ArrayVectors, Maker

DIM = 8
LABELS = (
    "cat",
    None,
    "o'hara",
    'say "x"',
    "100%",
    "a_b",
    "axb",
    "back\\slash",
    "x'; DROP TABLE rows; --",
    "naïve 日本",
    "two\nlines",
    "{label}",
    "%s",
    "[a]",
    "' OR ''='",
)
NUMBERS = ("7", "07", "1e3", None, "-2.5", "nan", "many", "1_000", "inf")  # which stores and Python read in their ways
MADE_BY = Maker("tiny", "a" * 64, "fp32")
OTHER = Maker("other", "b" * 64, "fp32")


def drawn(count: int = 300, seed: int = 0, encoder: Maker | None = MADE_BY) -> ArrayVectors:
    """``count`` rows whose vectors are of every length; the same ones first, however many."""
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(count, DIM)).astype(np.float32) * rng.uniform(0.5, 2, (count, 1)).astype(np.float32)
    labels = [LABELS[number % len(LABELS)] for number in range(count)]
    paths = [f"/data/it's {label}/{number:04d}.jpg" for number, label in enumerate(labels)]
    return rows_of(embeddings, paths, labels, encoder)


def rows_of(embeddings: FloatArray, paths: list[str], labels: list[str | None], encoder: Maker | None = MADE_BY) -> ArrayVectors:
    contents = [hashlib.sha256(path.encode()).hexdigest() for path in paths]
    size = pa.array([64] * len(paths), pa.int32())
    text = pa.string()
    columns = [pa.array(paths, text), pa.array(contents, text), size, size, pa.array(labels, text)]
    table = pa.table(dict(zip(("path", "sha256", "width", "height", "label"), columns, strict=True)))
    return ArrayVectors(np.ascontiguousarray(embeddings), table, encoder)


def described(rows: ArrayVectors) -> ArrayVectors:
    """The rows with metadata, some of them missing, under names that mean something to stores or are told apart by case."""
    count, texts, names = rows.count, (*LABELS[::-1], ""), ("city", "City", "id", "größe", "select")
    drawn_texts = [[texts[number * (place + 1) % len(texts)] for number in range(count)] for place in range(len(names))]
    columns = dict(zip(names, drawn_texts, strict=True), year=[NUMBERS[number % len(NUMBERS)] for number in range(count)])
    table = rows.columns
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, pa.string()))
    return ArrayVectors(rows.embeddings, table, rows.encoder)


def scores(vectors: FloatArray, query: FloatArray, metric: str) -> FloatArray:
    """By the definition, (N,), in double precision."""
    x, q = vectors.astype(np.float64), query.astype(np.float64)
    if metric == "l2":
        return -np.array([np.sqrt(np.sum((row - q) ** 2)) for row in x])
    products = np.array([np.sum(row * q) for row in x])
    if metric == "ip":
        return products
    cosines: FloatArray = products / np.sqrt((x**2).sum(1)) / np.sqrt((q**2).sum())
    return cosines
