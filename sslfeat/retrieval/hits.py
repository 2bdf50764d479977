"""What a search found."""

from __future__ import annotations

from dataclasses import dataclass

from sslfeat.numerics.arrays import FloatArray, IntArray
from sslfeat.retrieval.rows import Ids


@dataclass(frozen=True)
class Hit:
    """A row that was found: greater ``score`` is nearer (cosine, inner product, or minus the distance)."""

    path: str
    label: str | None
    score: float
    row: int


@dataclass(frozen=True)
class Hits:
    """``scores`` float32 and ``rows`` int64, (Q, top), best first; row -1 and score -inf where there are no more.

    There are no more columns than rows in the index. ``rows`` are numbers of vectors in the order in which they were given
    to ``Index.build`` and then to ``add``, until the index is built anew without its removed rows.
    """

    scores: FloatArray
    rows: IntArray
    ids: Ids

    def of(self, query: int) -> list[Hit]:
        """What was found for one query."""
        rows = [int(row) for row in self.rows[query] if row >= 0]
        found, scores = self.ids.describe(rows), self.scores[query][self.rows[query] >= 0]
        return [Hit(item["path"], item["label"], float(scores[n]), rows[n]) for n, item in enumerate(found)]
