"""Groups from verdicts on pairs: a leading image, and the copies and shots of its scene."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from sslfeat.dedup.verify import SAME_IMAGE, SAME_SCENE
from sslfeat.numerics.arrays import IntArray

Judge = Callable[[IntArray], list[str | None]]
"""The verdict on each of the pairs (P, 2): SAME_IMAGE, SAME_SCENE, or None for two different images."""


class Grouping:
    """Incremental grouping by ``add``; the image with the smallest ``order[row]`` leads a group."""

    def __init__(self, order: Sequence[int], judge: Judge) -> None:
        self._order, self._judge = order, judge
        self._verdicts: dict[tuple[int, int], str] = {}
        self._near: dict[int, set[int]] = {}  # rows judged SAME_IMAGE or SAME_SCENE
        self.leader: dict[int, int] = {}  # leader of each copy

    def add(self, pairs: IntArray) -> bool:
        """Judge pairs (P, 2) and assign copies to leaders. Returns whether any group changed."""
        self._ask(map(tuple, pairs.tolist()))
        before = dict(self.leader)
        for row in sorted(self._near, key=self._order.__getitem__):
            if row in self.leader:
                continue
            leaders = {self.leader.get(other, other) for other in self._near[row] if self._verdict(row, other) == SAME_IMAGE}
            self._ask((row, other) for other in leaders)
            same = [
                other for other in leaders if self._verdict(row, other) == SAME_IMAGE and self._order[other] < self._order[row]
            ]
            if same:
                first = min(same, key=self._order.__getitem__)
                self.leader[row] = self.leader[first] = first
        self._merge()
        return self.leader != before

    def groups(self) -> dict[int, list[int]]:
        """Leaders and their copies."""
        found: dict[int, list[int]] = {}
        for row, leader in self.leader.items():
            found.setdefault(leader, [])
            if row != leader:
                found[leader].append(row)
        return {leader: copies for leader, copies in found.items() if copies}

    def scenes(self) -> dict[int, list[int]]:
        """Images without copies that show the scene of an earlier image, by that image."""
        head: dict[int, int] = {}
        for row in sorted(self._near, key=self._order.__getitem__):
            if row in self.leader:
                continue
            heads = {self.leader.get(other, head.get(other, other)) for other in self._near[row]}
            heads = {other for other in heads if self._order[other] < self._order[row]}
            self._ask((row, other) for other in heads)
            same = [other for other in heads if self._verdict(row, other) is not None]
            if same:
                head[row] = min(same, key=self._order.__getitem__)
        found: dict[int, list[int]] = {}
        for row, first in head.items():
            found.setdefault(first, []).append(row)
        return found

    def _merge(self) -> None:
        """Merge two leaders that are the same image: copies of the later one that match the earlier one are moved."""
        linked = {
            (self.leader[row], self.leader[other])
            for (row, other), verdict in self._verdicts.items()
            if verdict == SAME_IMAGE and row in self.leader and other in self.leader
        }
        pairs = {tuple(sorted(pair, key=self._order.__getitem__)) for pair in linked if pair[0] != pair[1]}
        self._ask(pairs)  # type: ignore[arg-type]
        members = self.groups()
        for first, later in sorted(pairs, key=lambda pair: [self._order[row] for row in pair]):
            if self.leader[later] != later or self.leader[first] != first or self._verdict(first, later) != SAME_IMAGE:
                continue
            copies = [row for row in members.get(later, []) if self.leader[row] == later]
            self._ask((first, row) for row in copies)
            goes = [row for row in copies if self._verdict(first, row) == SAME_IMAGE]
            if len(goes) == len(copies):  # otherwise the later one keeps the images that do not match the first
                for row in (later, *goes):
                    self.leader[row] = first
                    members.setdefault(first, []).append(row)

    def _verdict(self, row: int, other: int) -> str | None:
        return self._verdicts.get((min(row, other), max(row, other)))

    def _ask(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Judge pairs without a positive verdict."""
        new = sorted({(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]} - self._verdicts.keys())
        if not new:
            return
        for (row, other), verdict in zip(new, self._judge(np.array(new, np.int64)), strict=True):
            if verdict in (SAME_IMAGE, SAME_SCENE):
                self._verdicts[row, other] = str(verdict)
                self._near.setdefault(row, set()).add(other)
                self._near.setdefault(other, set()).add(row)
