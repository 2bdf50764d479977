"""Search results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sslfeat.numerics.arrays import FloatArray, IntArray
from sslfeat.retrieval.rows import Ids
from sslfeat.retrieval.vectors import metadata_of


@dataclass(frozen=True)
class Hit:
    """One result: a greater ``score`` is nearer (cosine, inner product, or negative distance).

    ``metadata``: fields of a list or container except the label, as text.
    """

    path: str
    label: str | None
    score: float
    row: int
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Hits:
    """``scores`` float32 and ``rows`` int64, (Q, top), best first; row -1 and score -inf for missing results.

    At most as many columns as rows in the index. ``rows`` are numbers of vectors in the order given
    to ``Index.build`` and ``add``, until the index is rebuilt without removed rows.
    ``notes`` explains values that conditions could not compare, and conditions that matched nothing.
    """

    scores: FloatArray
    rows: IntArray
    ids: Ids
    notes: tuple[str, ...] = ()

    def of(self, query: int) -> list[Hit]:
        """Hits of one query."""
        rows = [int(row) for row in self.rows[query] if row >= 0]
        found, scores = self.ids.describe(rows), self.scores[query][self.rows[query] >= 0]
        facts = (found["path"].to_pylist(), found["label"].to_pylist(), scores.tolist(), rows, metadata_of(found))
        return [Hit(*row) for row in zip(*facts, strict=True)]
