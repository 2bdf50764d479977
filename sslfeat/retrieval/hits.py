"""What a search found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sslfeat.numerics.arrays import FloatArray, IntArray
from sslfeat.retrieval.rows import Ids
from sslfeat.retrieval.vectors import metadata_of


@dataclass(frozen=True)
class Hit:
    """A row that was found: greater ``score`` is nearer (cosine, inner product, or minus the distance).

    ``metadata`` is what a list or a container says of the image beyond its label, as text by name.
    """

    path: str
    label: str | None
    score: float
    row: int
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Hits:
    """``scores`` float32 and ``rows`` int64, (Q, top), best first; row -1 and score -inf where there are no more.

    There are no more columns than rows in the index. ``rows`` are numbers of vectors in the order in which they were given
    to ``Index.build`` and then to ``add``, until the index is built anew without its removed rows.
    ``notes`` says what the conditions could not compare.
    """

    scores: FloatArray
    rows: IntArray
    ids: Ids
    notes: tuple[str, ...] = ()

    def of(self, query: int) -> list[Hit]:
        """What was found for one query."""
        rows = [int(row) for row in self.rows[query] if row >= 0]
        found, scores = self.ids.describe(rows), self.scores[query][self.rows[query] >= 0]
        facts = (found["path"].to_pylist(), found["label"].to_pylist(), scores.tolist(), rows, metadata_of(found))
        return [Hit(*row) for row in zip(*facts, strict=True)]
