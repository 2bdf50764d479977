"""Pictures that are there more than once: the same file, or nearly the same picture.

Near means a cosine, of whitened features, of at least a threshold. Whitening takes away what all pictures have in common, and
makes the directions in which they differ much count less: copies that are cropped or written on are then found two to three
times as often (docs/dedupe.md). All pairs are compared, block by
block, so nothing is missed and nothing of size N x N is held. A group is a kept picture and those near *it*, never a chain
in which each is near the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sslfeat.errors import InputError, RetrievalError
from sslfeat.retrieval.vectors import FloatArray, FolderVectors, Vectors, blocks, prepare

IntArray = npt.NDArray[np.int64]
ROWS, COLUMNS = 2048, 16_384  # of scores at a time: 128 MiB
REFERENCE, RANK = 2000, 50  # pictures whose RANK-th nearest says what unrelated ones are like
NEARER, NEARER_CENTRED = 3, 12  # times nearer than that, and a picture is a copy
LOWEST, HIGHEST = 0.5, 0.995
ENOUGH = 200  # pictures to learn the directions of whitening from
SHRINKAGE = 0.1  # of the mean variance, added to each
FEW, FOR_FEW = 20, 0.99  # with so few pictures there is no distribution to speak of
MOST_PAIRS = 50_000_000
Step = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Copy:
    """A picture of a group: ``similarity`` to the kept one, ``exact`` if its file is the same."""

    path: str
    sha256: str | None
    width: int
    height: int
    similarity: float
    exact: bool


@dataclass(frozen=True)
class Group:
    """``kept`` and its ``copies``, nearest first."""

    kept: Copy
    copies: tuple[Copy, ...]


@dataclass(frozen=True)
class Duplicates:
    """Groups, the largest first, among ``pictures``; ``threshold`` was given, or chosen as ``why`` says."""

    groups: tuple[Group, ...]
    pictures: int
    threshold: float
    why: str

    @property
    def copies(self) -> int:
        """Pictures that are not kept."""
        return sum(len(group.copies) for group in self.groups)


def find_duplicates(
    features: str | Path | Vectors, threshold: float | None = None, step: Step = lambda stage, done, total: None
) -> Duplicates:
    """Duplicates in a features folder, or among vectors.

    Kept is the picture with the most pixels, then the one whose path sorts first. Raises InputError for a threshold
    outside 0 to 1, RetrievalError for features that are not finite or a threshold that nearly everything exceeds.
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise InputError(f"threshold is {threshold}: a cosine above 0 and up to 1")
    vectors: Vectors = FolderVectors(features) if isinstance(features, str | Path) else features
    tables, rows = [], []
    for columns, block in blocks(vectors, "ip"):
        tables.append(columns)
        rows.append(block)
    if not rows or not sum(map(len, rows)):
        return Duplicates((), 0, threshold or FOR_FEW, "there are no pictures")
    columns, unit = pa.concat_tables(tables), distinct(np.concatenate(rows))
    limit, why = (threshold, "given") if threshold is not None else choose_threshold(unit)
    first, second, scores = near_pairs(unit, limit, step)
    return Duplicates(_groups(columns, first, second, scores), len(unit), limit, why)


def distinct(rows: FloatArray) -> FloatArray:
    """Unit vectors (N, D) of whitened features; of few pictures, less their mean, of very few, as they are."""
    if len(rows) < FEW:
        return prepare(rows, "cosine")
    rows = rows - rows.mean(0, dtype=np.float64).astype(np.float32)
    if len(rows) < ENOUGH:
        return prepare(rows, "cosine")
    variances, directions = np.linalg.eigh(rows.T @ rows / np.float32(len(rows)))
    floor = SHRINKAGE * float(variances.mean()) + 1e-30  # 1e-30: pictures that are all the same
    scale = np.sqrt(np.maximum(variances, 0) + floor)
    return prepare(rows @ (directions / scale).astype(np.float32), "cosine")


def choose_threshold(unit: FloatArray) -> tuple[float, str]:
    """A threshold for vectors of ``distinct``, from the pictures themselves, and why.

    How far is a picture's 50th neighbour, one that is alike and yet another picture? The median of that distance,
    1 - cosine, over a sample, by a third, is what a copy may differ. Groups of up to 50 copies leave it as it is.
    """
    if len(unit) < FEW:
        return FOR_FEW, f"{len(unit)} pictures are too few to choose by"
    nearer = NEARER if len(unit) >= ENOUGH else NEARER_CENTRED
    rank = min(RANK, len(unit) // 4)
    sample = np.random.default_rng(0).permutation(len(unit))[:REFERENCE]
    distances = []
    for rows in np.array_split(unit[sample], -(-len(sample) // 256)):
        scores = rows @ unit.T
        place = scores.shape[1] - 1 - rank  # the picture itself comes before its neighbours
        distances.append(1 - np.partition(scores, place, axis=1)[:, place])
    typical = float(np.median(np.concatenate(distances)))
    chosen = float(np.clip(1 - typical / nearer, LOWEST, HIGHEST))
    return round(chosen, 4), f"{nearer} times nearer than the {rank}th neighbour usually is (cosine {1 - typical:.3f})"


def near_pairs(unit: FloatArray, threshold: float, step: Step) -> tuple[IntArray, IntArray, FloatArray]:
    """All pairs i < j of rows (N, D) whose inner product is at least ``threshold``, and that product."""
    found: list[tuple[IntArray, IntArray, FloatArray]] = []
    count, total = 0, len(unit)
    limit = np.float32(threshold) - np.float32(1e-6)  # equal rows: rounding must not part them
    for top in range(0, total, ROWS):
        block = unit[top : top + ROWS]
        for left in range(top, total, COLUMNS):
            scores = block @ unit[left : left + COLUMNS].T
            i, j = np.nonzero(scores >= limit)
            ahead = j + left > i + top
            i, j = i[ahead], j[ahead]
            found.append((i + top, j + left, scores[i, j]))
            count += len(i)
        if count > MOST_PAIRS:
            raise RetrievalError(f"more than {MOST_PAIRS} pairs are as near as {threshold}: give a higher --threshold")
        step("compared", min(top + ROWS, total), total)
    first, second, scores = (np.concatenate([part[place] for part in found]) for place in range(3))
    return first, second, scores


def _groups(columns: pa.Table, first: IntArray, second: IntArray, scores: FloatArray) -> tuple[Group, ...]:
    """The largest picture takes what is near it, then the next largest of those left, and so on."""
    facts = {name: columns[name].to_pylist() for name in ("path", "sha256", "width", "height")}
    same = _same_files(facts["sha256"])
    first, second = np.concatenate([first, same[0]]), np.concatenate([second, same[1]])
    scores = np.concatenate([scores, np.ones(len(same[0]), np.float32)])
    near: dict[int, dict[int, float]] = {}
    for a, b, score in zip(first.tolist(), second.tolist(), scores.tolist(), strict=True):
        for one, other in ((a, b), (b, a)):
            near.setdefault(one, {})[other] = max(score, near.get(one, {}).get(other, -1.0))

    def copy(row: int, kept: int, score: float) -> Copy:
        exact = facts["sha256"][row] is not None and facts["sha256"][row] == facts["sha256"][kept]
        width, height = facts["width"][row], facts["height"][row]
        return Copy(facts["path"][row], facts["sha256"][row], width, height, round(min(score, 1.0), 6), exact)

    groups, taken = [], set()
    for kept in sorted(near, key=lambda row: (-facts["width"][row] * facts["height"][row], facts["path"][row])):
        if kept in taken:
            continue
        members = sorted(
            (row for row in near[kept] if row not in taken), key=lambda row: (-near[kept][row], facts["path"][row])
        )
        taken |= {kept, *members}
        if members:
            copies = tuple(copy(row, kept, near[kept][row]) for row in members)
            groups.append(Group(copy(kept, kept, 1.0), copies))
    return tuple(sorted(groups, key=lambda group: (-len(group.copies), group.kept.path)))


def _same_files(hashes: list[str | None]) -> tuple[IntArray, IntArray]:
    """Pairs of rows with equal sha256, each with the first of its kind and with one another."""
    by_hash: dict[str, list[int]] = {}
    for row, sha256 in enumerate(hashes):
        if sha256 is not None:
            by_hash.setdefault(sha256, []).append(row)
    pairs = [(a, b) for rows in by_hash.values() if len(rows) > 1 for n, a in enumerate(rows) for b in rows[n + 1 :]]
    return tuple(np.array(pairs, np.int64).reshape(-1, 2).T)  # type: ignore[return-value]
