"""Contact sheets of predictions: the images of each class with the highest and the lowest probability."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from sslfeat.evaluation.probing.predict import Prediction
from sslfeat.reports.contact_sheet import CLUSTERS, EACH, Section
from sslfeat.reports.gallery import Shown
from sslfeat.system.plurals import counted

NAMELESS = "no name"  # multi-label images without a probable label


def prediction_sheet(predictions: Iterable[Prediction], each: int = EACH, names: int = CLUSTERS) -> list[Section]:
    """Sections for ``gallery``, one for each of the ``names`` most frequent predictions, ``each`` images per kind."""
    by_name: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for row in predictions:
        for label, probability in zip(row.labels, row.probabilities, strict=True):
            by_name[label].append((probability, row.path))
        if not row.labels:
            by_name[NAMELESS].append((0.0, row.path))
    sections = []
    for name, found in sorted(by_name.items(), key=lambda item: -len(item[1]))[:names]:
        found.sort(key=lambda pair: -pair[0])
        rest = found[each:]
        kinds = [(found[:each], "sure"), (rest[::-1][:each], "unsure")]
        shown = [Shown(path, f"{word} {probability:.3f}") for part, word in kinds for probability, path in part]
        sections.append((f"{name}: {counted(len(found), 'image')}", shown))
    return sections
