"""Index folders with false fields or row numbers behind valid hashes: errors that name them."""

from __future__ import annotations

import copy
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sslfeat import Index
from sslfeat.errors import RetrievalError, SslfeatError
from sslfeat.retrieval import storage as files
from sslfeat.retrieval.faiss_io import read_faiss
from sslfeat.storage.records import signed_bytes
from tests.small_index import rows, short_laps

__all__ = ["short_laps"]


def sign(folder: Path, meta: dict[str, Any]) -> None:
    """Written with a valid hash, as by somebody who means it."""
    (folder / files.META).write_bytes(signed_bytes(meta))


LIES: list[tuple[str, Any]] = [
    ("spec", {}), ("spec", {"kind": "lsh", "nlist": 0, "pq_m": 0, "hnsw_m": 0}), ("spec.kind", "flat"),
    ("spec.nlist", 0), ("spec.nlist", 7), ("spec.nlist", "4"), ("spec.nlist", -4), ("spec.pq_m", 10**30),
    ("factory", "Flat"), ("metric", "hamming"), ("metric", "l2"), ("metric", None), ("settings", {"10": {}}),
    ("settings", {"ten": {"nprobe": 1}}), ("settings", {"10": {"nprobe": 0}}), ("settings", {"10": {"nprobe": 1.5}}),
    ("settings", {"10": {"efSearch": 8}}), ("settings", []), ("dim", 0), ("dim", 9), ("dim", True), ("rows", 0),
    ("rows", 299), ("rows", -1), ("removed", 1), ("removed", 301), ("built_rows", 0), ("figures", None),
    ("figures.recall", 1.5), ("figures.recall", "high"), ("figures.recall_at", {"10": -1}), ("figures.memory", -1),
    ("figures.measured_rows", None), ("figures.why", 3), ("encoder", {"name": "x"}), ("encoder", "x"), ("origin", None),
    ("versions", {"faiss": 1}), ("files", {}), ("files", {"index.faiss": {}}), ("more", 1),
]  # fmt: skip


def test_fields_that_lie_are_refused_by_name_behind_a_valid_hash(tmp_path: Path) -> None:
    index = tmp_path / "index"
    Index.build(rows(300), kind="ivf").save(index)
    good = files.read_metadata(index).plain()
    for place, value in LIES:
        meta = copy.deepcopy(good)
        holder = meta
        for name in place.split(".")[:-1]:
            holder = holder[name]
        holder[place.split(".")[-1]] = value
        sign(index, meta)
        with pytest.raises(RetrievalError) as refused:
            Index.load(index)
        assert str(index) in str(refused.value), place
    for place in [*good, "figures.recall", "spec.nlist", "files.index.faiss.sha256"]:
        meta = copy.deepcopy(good)
        holder, *names = [meta, *(["files", "index.faiss", "sha256"] if place.startswith("files.") else place.split("."))]
        for name in names[:-1]:
            holder = holder[name]
        del holder[names[-1]]
        sign(index, meta)
        with pytest.raises(RetrievalError, match=names[-1].replace(".", r"\.")):
            Index.load(index)
    for data in (b"[" * 100_000, b'{"format": 3, "x": ' + b"[" * 900 + b"]" * 900 + b"}", b"[]", b"{}", b"\xff", b'"x"'):
        (index / files.META).write_bytes(data)
        with pytest.raises(RetrievalError, match=r"index\.json"):
            Index.load(index)
    sign(index, good)
    assert len(Index.load(index)) == 300


def test_any_damage_to_a_field_behind_a_valid_hash_is_named_or_harmless(tmp_path: Path) -> None:
    index = tmp_path / "index"
    Index.build(rows(300), kind="hnsw").save(index)
    good, rng, refused = files.read_metadata(index).plain(), random.Random(0), 0
    for _ in range(400):
        meta = copy.deepcopy(good)
        holder: Any = meta
        while True:
            key = rng.choice(sorted(holder) if isinstance(holder, dict) else range(len(holder)))
            if isinstance(holder[key], dict | list) and len(holder[key]) and rng.random() < 0.8:
                holder = holder[key]
                continue
            break
        holder[key] = rng.choice([None, -1, 0, 1, 10**40, 1e300, "", "x", [], {}, [[]], True, {"x": 1}])
        sign(index, meta)
        try:
            loaded = Index.load(index)
            loaded.search(rows(3), top=5)
            str(loaded.meta["figures"]["recall"])
        except SslfeatError as error:
            refused += 1
            assert str(index) in str(error)
    assert refused > 200


def test_a_graph_whose_numbers_are_not_those_of_rows_is_refused_behind_a_valid_hash(tmp_path: Path) -> None:
    """They say where in the exact vectors to read."""
    import faiss

    index = tmp_path / "index"
    Index.build(rows(300), kind="hnswsq").save(index)
    assert len(Index.load(index)) == 300
    for wrong in ([300], [-1], [0, 0]):
        opened = read_faiss(index / files.VECTORS, mapped=False)
        inner = faiss.downcast_index(opened.base_index)
        numbers = np.concatenate([np.arange(299), wrong])
        faiss.copy_array_to_vector(numbers, inner.id_map)
        faiss.write_index(opened, str(tmp_path / "wrong"))
        shutil.copytree(index, tmp_path / "copy")
        (tmp_path / "wrong").replace(tmp_path / "copy" / files.VECTORS)
        metadata = files.read_metadata(index)
        stored = {**metadata.files, files.VECTORS: files.hashes(tmp_path / "copy" / files.VECTORS)}
        sign(tmp_path / "copy", replace(metadata, files=stored).plain())
        with pytest.raises(RetrievalError, match=r"numbers are not those of rows|cannot be read by FAISS"):
            Index.load(tmp_path / "copy")
        shutil.rmtree(tmp_path / "copy")
