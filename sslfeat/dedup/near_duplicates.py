"""Find duplicates: the same file, the same image, or the same scene.

Equal files and equal features are merged first. Each image and its nearest neighbors are candidates (``candidates.py``), and
pixels decide (``verify.py``). A group is one image and the copies of *it*, never a chain in
which each image is only similar to the next.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sslfeat.dedup.alignment import SIDE
from sslfeat.dedup.candidates import ENOUGH, FEW, WHITENED, Step, candidate_pairs, distinct, equal_rows
from sslfeat.dedup.grouping import Grouping
from sslfeat.dedup.thumbnails import Thumbnails
from sslfeat.dedup.verify import SAME_FILE, SAME_IMAGE, SAME_SCENE, judge
from sslfeat.errors import InputError
from sslfeat.numerics.arrays import FloatArray, IntArray
from sslfeat.retrieval.vectors import FolderVectors, Vectors, as_vectors, blocks, describing
from sslfeat.system.plurals import counted

REFERENCE, RANK = 2000, 50  # images whose RANK-th neighbor estimates the similarity of unrelated images
NEARER, NEARER_CENTERED = 3, 12  # a copy is this many times nearer
LOWEST, HIGHEST, FOR_FEW = 0.5, 0.995, 0.99  # threshold on cosines without pixels
COPIES = (SAME_FILE, SAME_IMAGE)
COPY_NAME = re.compile(r"^copy (\d+ )?of |[ _-]+copy([ _-]*\(?\d+\)?)?$| ?\(\d+\)$", re.IGNORECASE)
PAIRS = 4096  # pairs between two progress reports


@dataclass(frozen=True)
class Copy:
    """An image of a group: ``similarity`` (cosine of whitened features with the kept image) and ``verdict``."""

    path: str
    sha256: str | None
    width: int
    height: int
    similarity: float
    verdict: str

    @property
    def exact(self) -> bool:
        """Whether the file is identical to the kept one."""
        return self.verdict == SAME_FILE


@dataclass(frozen=True)
class DuplicateGroup:
    """``kept`` and its ``copies``, sorted by verdict and similarity."""

    kept: Copy
    copies: tuple[Copy, ...]


@dataclass(frozen=True)
class Duplicates:
    """Groups among ``images``, largest first; ``why`` describes the method.

    ``threshold``: minimum cosine of whitened features of compared pairs. ``failures``: (path, reason) of candidate images
    that could not be read. ``features``: the features folder as given, and
    ``inputs``, the sha256 of its inputs; empty for vectors. ``by_hand``: the groups were reviewed.
    """

    groups: tuple[DuplicateGroup, ...]
    images: int
    threshold: float
    why: str
    failures: tuple[tuple[str, str], ...] = ()
    features: str = ""
    inputs: str = ""
    by_hand: bool = False

    @property
    def copies(self) -> int:
        """Number of images that are the same file or image as a kept one."""
        return self._count(COPIES)

    @property
    def scenes(self) -> int:
        """Number of other images of the same scene as a kept one."""
        return self._count((SAME_SCENE,))

    def counts(self) -> str:
        """Counts in words; groups with only other shots are counted separately."""
        alone = sum(all(copy.verdict == SAME_SCENE for copy in group.copies) for group in self.groups)
        groups, scenes = counted(len(self.groups) - alone, "group"), counted(self.scenes, "other shot")
        more = f" ({counted(alone, 'group')} more)" if alone else ""
        return f"{counted(self.copies, 'copy')} in {groups}, with {scenes} of a scene{more}"

    def _count(self, verdicts: tuple[str, ...]) -> int:
        return sum(copy.verdict in verdicts for group in self.groups for copy in group.copies)


def find_duplicates(
    features: str | Path | Vectors | npt.ArrayLike, threshold: float | None = None, step: Step = lambda stage, done, total: None,
    pixels: bool | None = None,
) -> Duplicates:  # fmt: skip
    """Find duplicates in a features folder, verified by pixels, or among vectors (N, D), by cosine only.

    ``pixels`` overrides this: whether the paths are image files to read.

    ``threshold``: minimum cosine of whitened features of a pair; by default low if pixels
    decide, otherwise estimated from the vectors. Raises InputError for a threshold outside 0 to 1, RetrievalError for features
    that are not finite.
    """
    check_threshold(threshold)
    vectors = as_vectors(features)
    parts = list(blocks(vectors, "ip"))
    if not sum(len(rows) for _, rows in parts):
        return Duplicates((), 0, threshold or FOR_FEW, "there are no images")
    images = _Images(pa.concat_tables([columns for columns, _ in parts]), np.concatenate([rows for _, rows in parts]))
    if isinstance(features, str | Path) if pixels is None else pixels:
        judge: _Pixels | _Cosines = _Pixels(images, step)
        limit, why = threshold or WHITENED[1], "whitened features of pairs whose pixels were compared"
    else:
        limit, why = (threshold, "given") if threshold is not None else choose_threshold(images.kinds)
        judge = _Cosines(images, limit)
    grouping = Grouping(images.order, judge)
    pairs = images.pairs(images.files, threshold, step)
    while grouping.add(pairs):  # distant leaders may also be the same image
        pairs = images.pairs(np.array(sorted(grouping.groups()), np.int64), threshold, lambda stage, done, total: None)
    groups = images.groups(grouping.groups(), grouping.scenes())
    failures = tuple(sorted((images.paths[row], reason) for row, reason in judge.problems.items()))
    if not isinstance(vectors, FolderVectors):
        return Duplicates(groups, len(images.paths), limit, why, failures)
    made_of = vectors.features.run.inputs.sha256
    return Duplicates(groups, len(images.paths), limit, why, failures, vectors.origin, made_of)


def check_threshold(threshold: float | None) -> None:
    """Raise InputError for a threshold outside 0 to 1."""
    if threshold is not None and not 0 < threshold <= 1:
        raise InputError(f"threshold is {threshold}, but must be a cosine above 0 and at most 1")


def choose_threshold(unit: FloatArray) -> tuple[float, str]:
    """Threshold for vectors of ``distinct`` without pixels, and the reason.

    The 50th neighbor of a vector is similar but a different image. A copy may differ by a third of the median of that distance,
    1 - cosine, over a sample.
    """
    if len(unit) < FEW:
        return FOR_FEW, f"{len(unit)} images are too few to choose by"
    nearer = NEARER if len(unit) >= ENOUGH else NEARER_CENTERED
    rank = min(RANK, len(unit) // 4)
    sample = np.random.default_rng(0).permutation(len(unit))[:REFERENCE]
    distances = []
    for rows in np.array_split(unit[sample], -(-len(sample) // 256)):
        scores = rows @ unit.T
        place = scores.shape[1] - 1 - rank  # after the image itself
        distances.append(1 - np.partition(scores, place, axis=1)[:, place])
    typical = float(np.median(np.concatenate(distances)))
    chosen = float(np.clip(1 - typical / nearer, LOWEST, HIGHEST))
    return round(chosen, 4), f"{nearer} times nearer than the {rank}th neighbor usually is (cosine {1 - typical:.3f})"


class _Images:
    """Rows of features (N, D) with their files; one row per distinct file is searched."""

    def __init__(self, table: pa.Table, rows: FloatArray) -> None:
        facts: dict[str, list[Any]] = {name: table[name].to_pylist() for name in ("path", "sha256", "width", "height")}
        self.paths, self.hashes = facts["path"], facts["sha256"]
        self.sizes = list(zip(facts["width"], facts["height"], strict=True))
        kinds, kind = np.unique(equal_rows(rows), return_inverse=True)
        self.rows, self.kinds = rows, distinct(rows[kinds])  # whitening uses each distinct image once
        self.unit = self.kinds[kind]
        said = [table[name].is_valid().to_numpy() for name in ("label", *describing(table))]
        self.described = np.logical_or.reduce(said).tolist()
        ranked = sorted(range(len(rows)), key=lambda row: (*self._worth(row), self.paths[row]))
        self.order = np.argsort(ranked).tolist()
        first: dict[Any, int] = {}
        self.file = [first.setdefault(self.hashes[row] or row, row) for row in range(len(rows))]
        self.files = np.array(sorted(set(self.file)), np.int64)

    def pairs(self, rows: IntArray, threshold: float | None, step: Step) -> IntArray:
        """Candidate pairs among rows (n,): neighbors and equal rows."""
        if len(rows) < 2:
            return np.empty((0, 2), np.int64)
        same = equal_rows(self.rows[rows])
        kinds = np.unique(same)
        repeated = np.flatnonzero(same != np.arange(len(same)))
        near = kinds[candidate_pairs(self.rows[rows[kinds]], threshold, step)]
        pairs: IntArray = rows[np.concatenate([near.reshape(-1, 2), np.stack([same[repeated], repeated], 1)])]
        return pairs

    def groups(self, copies: dict[int, list[int]], scenes: dict[int, list[int]]) -> tuple[DuplicateGroup, ...]:
        """Groups of leaders with copies, other shots of the scene, and equal files."""
        files: dict[int, list[int]] = {}
        for row, first in enumerate(self.file):
            files.setdefault(first, []).append(row)
        within = {row for members in scenes.values() for row in members}
        leaders = {*copies, *scenes, *(first for first, same in files.items() if len(same) > 1)}
        leaders -= {row for members in copies.values() for row in members} | within
        found = []
        for leader in leaders:
            same = [row for first in (leader, *copies.get(leader, [])) for row in files[first]]
            found.append(self._group(same, [row for first in scenes.get(leader, []) for row in files[first]]))
        return tuple(sorted(found, key=lambda group: (-len(group.copies), group.kept.path)))

    def _group(self, same: list[int], scene: list[int]) -> DuplicateGroup:
        folders = Counter(os.path.dirname(self.paths[row]) for row in same)
        kept = min(same, key=lambda row: (*self._worth(row), -folders[os.path.dirname(self.paths[row])], self.paths[row]))
        members = [
            self._copy(row, kept, SAME_FILE if self.file[row] == self.file[kept] else SAME_IMAGE) for row in same if row != kept
        ]
        members += [self._copy(row, kept, SAME_SCENE) for row in scene]
        ranks = (SAME_FILE, SAME_IMAGE, SAME_SCENE)
        members.sort(key=lambda copy: (ranks.index(copy.verdict), -copy.similarity, copy.path))
        return DuplicateGroup(self._copy(kept, kept, SAME_FILE), tuple(members))

    def _copy(self, row: int, kept: int, verdict: str) -> Copy:
        similarity = 1.0 if self.file[row] == self.file[kept] else float(np.clip(self.unit[row] @ self.unit[kept], -1, 1))
        return Copy(self.paths[row], self.hashes[row], *self.sizes[row], round(similarity, 6), verdict)

    def _worth(self, row: int) -> tuple[int, bool, bool]:
        """Sort key of the image to keep: largest, then with label or metadata, then without a copy-like name."""
        width, height = self.sizes[row]
        return -int(width * height), not self.described[row], _named_copy(self.paths[row])


class _Cosines:
    """Verdicts from the cosine of whitened features only."""

    def __init__(self, images: _Images, threshold: float) -> None:
        self._unit, self._least = images.unit, threshold - 1e-6  # rounding must not separate equal rows
        self.problems: dict[int, str] = {}

    def __call__(self, pairs: IntArray) -> list[str | None]:
        cosines = (self._unit[pairs[:, 0]] * self._unit[pairs[:, 1]]).sum(1)
        return [SAME_IMAGE if cosine >= self._least else None for cosine in cosines]


class _Pixels:
    """Verdicts from pixels; images are decoded on first use."""

    def __init__(self, images: _Images, step: Step) -> None:
        self._thumbnails, self._step = Thumbnails(images.paths, images.hashes, SIDE), step
        self.problems = self._thumbnails.problems

    def __call__(self, pairs: IntArray) -> list[str | None]:
        self._thumbnails.load(np.unique(pairs), lambda done, total: self._step("decoded", done, total))
        pixels, verdicts = self._thumbnails.pixels, list[str | None]()
        for start in range(0, len(pairs), PAIRS):
            first, second = pairs[start : start + PAIRS].T
            verdicts += judge(pixels[first], pixels[second])
            if len(pairs) > PAIRS:
                self._step("judged", start + len(first), len(pairs))
        readable = [self.problems.keys().isdisjoint(pair) for pair in pairs.tolist()]
        return [verdict if good else None for verdict, good in zip(verdicts, readable, strict=True)]


def _named_copy(path: str) -> bool:
    """Whether a file name looks like a copy: "copy of a.jpg", "a - Copy (2).jpg", "a (1).jpg"."""
    return COPY_NAME.search(os.path.splitext(os.path.basename(path))[0]) is not None
