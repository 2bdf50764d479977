"""Kinds of indexes, their memory, and the settings that trade speed for recall.

flat   exhaustive search: exact
ivf    inverted lists, of which the nearest are searched
hnsw   hierarchical navigable small world graph (Malkov, Yashunin 2018)
hnswsq hnsw over 8-bit scalar codes, refined with exact vectors
ivfpq  ivf with 4-bit product codes (Jegou et al. 2011; Andre et al. 2017), refined with exact vectors
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sslfeat.numerics.arrays import FloatArray
from sslfeat.numerics.kmeans import centers

KINDS = ("flat", "ivf", "hnsw", "hnswsq", "ivfpq")
Settings = dict[str, int]
POINTS_A_LIST = 64  # to learn a center from
POINTS_FOR_CODES = 16_384  # 16 centers for each piece of a vector are soon learned
LINKS, CONSTRUCTION = 32, 80
CODE_VALUES = 16  # of a 4-bit code
CODED = 2  # dimensions in one 4-bit code
REFINED = ",RFlat"  # how FAISS calls comparing the best exactly
ROOM = 1.6  # bytes taken by what grows for each byte in it
SEED = 1234


@dataclass(frozen=True)
class IndexSpec:
    """Specification of an index: ``nlist`` lists, ``pq_m`` 4-bit codes per vector, ``hnsw_m`` links per node."""

    kind: str
    nlist: int = 0
    pq_m: int = 0
    hnsw_m: int = 0

    @property
    def factory(self) -> str:
        """Factory string of FAISS."""
        return {
            "flat": "Flat",
            "ivf": f"IVF{self.nlist},Flat",
            "hnsw": f"HNSW{self.hnsw_m},Flat",
            "hnswsq": f"IDMap,HNSW{self.hnsw_m},SQ8{REFINED}",
            "ivfpq": f"IVF{self.nlist},PQ{self.pq_m}x4fs{REFINED}",
        }[self.kind]

    @property
    def is_graph(self) -> bool:
        """Whether it is a graph, which finds neighbors of its own rows more easily than of others."""
        return self.kind.startswith("hnsw")

    @property
    def refines(self) -> bool:
        """Whether codes are searched and results refined with exact vectors."""
        return self.factory.endswith(REFINED)

    def memory(self, count: int, dim: int, on_disk: bool = False) -> int:
        """Bytes of memory for ``count`` vectors, unless the lists of ivf are read from disk (``on_disk``).

        Exact vectors for refinement are always on disk.
        """
        lists = self.nlist * 4 * dim
        return lists if on_disk and self.kind == "ivf" else count * self._each(dim) + lists

    def building(self, count: int, dim: int) -> int:
        """Bytes of memory to build an index of ``count`` vectors."""
        return 0 if self.kind == "flat" else int(ROOM * count * self._each(dim))

    def _each(self, dim: int) -> int:
        vector = 4 * dim
        return {
            "flat": vector,
            "ivf": vector + 8,
            "hnsw": vector + 8 * self.hnsw_m + 24,
            "hnswsq": dim + 8 * self.hnsw_m + 32,
            "ivfpq": -(-self.pq_m // 2) + 8,
        }[self.kind]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r} is none of {', '.join(KINDS)}")
        if min(self.nlist, self.pq_m, self.hnsw_m) < 0:
            raise ValueError("nlist, pq_m or hnsw_m is negative")

    def ladders(self, depth: int) -> list[list[Settings]]:
        """Settings to try for the ``depth`` nearest, each list from fast to accurate."""
        if self.kind == "flat":
            return [[{}]]
        if self.kind == "hnsw":
            return [[{"efSearch": ef} for ef in _steps(max(8, depth), max(1024, 8 * depth))]]
        if self.kind == "hnswsq":
            wanted = [depth * eighths // 8 for eighths in (10, 12, 24)]  # the codes are nearly exact
            return [[{"efSearch": ef, "candidates": few} for ef in _steps(few, max(1024, 8 * depth))] for few in wanted]
        probes = [*_steps(1, self.nlist - 1), self.nlist]
        if self.kind == "ivf":
            return [[{"nprobe": probe} for probe in probes]]
        return [[{"nprobe": probe, "candidates": depth * more} for probe in probes] for more in (2, 4, 8, 16, 32, 64, 128)]


def _steps(first: int, last: int) -> list[int]:
    """1, 1.25, 1.5 and 1.75 times the powers of two, as whole numbers."""
    values = (base * quarter // 4 for base, quarter in itertools.product([2**n for n in range(15)], (4, 5, 6, 7)))
    return sorted({value for value in values if first <= value <= last})


def specs_for(count: int, dim: int) -> list[IndexSpec]:
    """Specs of all suitable kinds for ``count`` vectors; ivfpq in several code sizes, largest first."""
    lists = 2 ** max(0, round(math.log2(4 * math.sqrt(max(count, 1)))))
    lists = max(1, min(lists, count // POINTS_A_LIST))
    coded = [IndexSpec("ivfpq", many, codes) for codes in _code_counts(dim) for many in dict.fromkeys((1, lists))]
    graphs = [IndexSpec(kind, hnsw_m=LINKS) for kind in ("hnsw", "hnswsq")]
    return [IndexSpec("flat"), IndexSpec("ivf", lists), *graphs, *coded]


def _code_counts(dim: int) -> list[int]:
    """Numbers of codes per vector: divisors of ``dim`` near a half, a quarter and an eighth of it."""
    divisors = [number for number in range(1, dim + 1) if dim % number == 0]
    sizes = [max(1, dim // (CODED * factor)) for factor in (1, 2, 4)]
    nearest = [min(divisors, key=lambda number: abs(math.log(number / want))) for want in sizes]
    return list(dict.fromkeys(nearest))


def empty(spec: IndexSpec, dim: int, metric: str, sample: FloatArray) -> Any:
    """A FAISS index for ``spec``, trained on ``sample`` (N, ``dim``) and still empty; without the exact
    vectors beside codes.
    """
    import faiss

    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    index = faiss.index_factory(dim, spec.factory.removesuffix(REFINED), kind)
    if spec.is_graph:
        graph = faiss.downcast_index(index.index) if spec.kind == "hnswsq" else index
        graph.hnsw.efConstruction = CONSTRUCTION
        index.train(sample)
    if spec.nlist:
        quantizer = faiss.downcast_index(index.quantizer)
        quantizer.add(_centers(sample, spec.nlist, metric))
        if spec.pq_m:
            index.pq.cp.min_points_per_centroid = 1  # else it warns of few rows on standard error
            sample = np.resize(sample, (max(len(sample), CODE_VALUES), dim))  # fewer it does not accept, equal ones it does
        with one_thread():  # hundreds of tiny problems: sharing each of them takes far longer than solving it
            index.train(sample[:POINTS_FOR_CODES])  # the lists are there already: codes alone are learned
    return index


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run FAISS on one thread within the block."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _centers(sample: FloatArray, lists: int, metric: str) -> FloatArray:
    if lists == 1:
        mean: FloatArray = sample.mean(0, keepdims=True)
        return mean
    spherical = metric == "cosine"
    return centers(sample, lists, SEED, iterations=10, points_a_center=POINTS_A_LIST, spherical=spherical)


def parameters(spec: IndexSpec, settings: Settings, k: int) -> Any:
    """Search parameters of FAISS for these settings and ``k`` results."""
    import faiss

    if spec.kind == "flat":
        return None
    if spec.is_graph:
        found_by = faiss.SearchParametersHNSW(efSearch=max(settings["efSearch"], k))
    else:
        found_by = faiss.SearchParametersIVF(nprobe=settings["nprobe"])
    if not spec.refines:
        return found_by
    factor = max(settings["candidates"], k) / k
    return faiss.IndexRefineSearchParameters(k_factor=factor, base_index_params=found_by)
