"""Multi-label probe: one logistic regression per label, evaluated by average precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sslfeat.errors import FeaturesError, UsageError
from sslfeat.evaluation.probing.bootstrap import LEVELS
from sslfeat.evaluation.probing.labels import Labeling, check_finite
from sslfeat.evaluation.probing.logistic import SCALINGS, Linear, Targets
from sslfeat.evaluation.probing.probe import TEST_SHARE, VALIDATION_SHARE, ProbeOptions
from sslfeat.evaluation.probing.regularization import best_fit
from sslfeat.evaluation.probing.splits import Contents, share_of
from sslfeat.features.reader import Features
from sslfeat.numerics.arrays import FloatArray

BoolArray = npt.NDArray[np.bool_]
RESAMPLES = 1000
LEAST = 2  # minimum number of images per label


@dataclass(frozen=True)
class LabelPrecision:
    """Average precision of a label, with ``test`` positive test rows (NaN if 0)."""

    name: str
    test: int
    average_precision: float


@dataclass(frozen=True)
class UnseenSeveral:
    """``mean`` average precision over the ``test`` rows whose files are not among the training rows; ``seen``: number of other
    test rows.

    NaN if none of them has a label."""

    seen: int
    test: int
    mean: float


@dataclass(frozen=True)
class MultiLabelResult:
    """``mean`` average precision over labels with its 95% confidence interval over test images; ``chance``: that of a random
    order.

    ``unseen`` is set if test images are also training images."""

    mean: float
    low: float
    high: float
    chance: float
    c: float
    validation: dict[float, float]
    labels: int
    train: int
    test: int
    per_label: list[LabelPrecision]
    scaling: str = SCALINGS[0]
    scalings: dict[str, float] = field(default_factory=dict)
    unseen: UnseenSeveral | None = None


@dataclass(frozen=True)
class MultiLabeled:
    """Rows ``x`` float32 (N, D), their labels (``y`` bool (N, K) for ``names``), their paths, and ``contents`` (N,), equal for
    equal files (None: unknown)."""

    x: FloatArray
    y: BoolArray
    names: list[str]
    paths: list[str] = field(repr=False)
    contents: Contents = field(default=None, repr=False)


@dataclass(frozen=True)
class SeveralProbed:
    """A multi-label probe: metrics, fitted ``model``, and label ``names``."""

    result: MultiLabelResult
    model: Linear
    names: list[str]
    label_source: list[Labeling] = field(default_factory=list, repr=False)


def multi_labeled(
    features: Features, labels: Sequence[str | tuple[str, ...] | None], names: Sequence[str] | None = None
) -> MultiLabeled:
    """Rows with known labels, including empty tuples. Raises FeaturesError if no label occurs at least twice.

    ``names``: labels of the training set, for a test set; other labels are ignored.
    """
    rows = [row for row, value in enumerate(labels) if value is not None]
    sets = [value if isinstance(value, tuple) else (str(value),) for value in labels if value is not None]
    counts = Counter(name for value in sets for name in value)
    used = sorted(name for name, count in counts.items() if count >= LEAST) if names is None else list(names)
    if not used:
        raise FeaturesError(f"no label occurs in at least {LEAST} of {len(rows)} images")
    number = {name: index for index, name in enumerate(used)}
    y = np.zeros((len(rows), len(used)), bool)
    for row, value in enumerate(sets):
        y[row, [number[name] for name in value if name in number]] = True
    x, paths = features.embeddings[rows], [features.paths[row] for row in rows]
    check_finite(x, paths)
    return MultiLabeled(x, y, used, paths, None if features.contents is None else features.contents[rows])


def split_rows(rows: MultiLabeled, share: float, seed: int) -> tuple[MultiLabeled, MultiLabeled]:
    """Random split: ``share`` of the images goes to the second part, copies stay together."""
    second = share_of(len(rows.x), share, np.random.default_rng(seed), rows.contents)
    return _take(rows, np.flatnonzero(~second)), _take(rows, np.flatnonzero(second))


def probe_several(train: MultiLabeled, test: MultiLabeled | None = None, options: ProbeOptions | None = None) -> SeveralProbed:
    """Train on ``train`` and test on ``test`` (default: a fifth of the rows); C is chosen on a tenth of the training rows.

    Raises UsageError for options that require one label per image.
    """
    options = options or ProbeOptions()
    if options.folds or options.class_weight:
        raise UsageError("folds and class weights require one label per image")
    if test is None:
        train, test = split_rows(train, TEST_SHARE, options.seed)
    rng = np.random.default_rng(options.seed)
    held = share_of(len(train.x), VALIDATION_SHARE, rng, train.contents)

    def judge(scores: FloatArray, rows: BoolArray) -> float:
        values = average_precisions(scores, train.y[rows])
        return float(np.nanmean(values)) if np.isfinite(values).any() else 0.0

    weight = np.ones(len(train.x), np.float32)
    targets = Targets(train.y, len(train.names))
    chosen = best_fit(train.x, targets, weight, [held], judge, options.strengths)
    scores = chosen.model.scores(test.x)
    values = average_precisions(scores, test.y)
    if not np.isfinite(values).any():
        raise FeaturesError("the test rows have none of the labels of the training rows")
    low, high = interval(scores, test.y, rng)
    carried = test.y.sum(0)
    result = MultiLabelResult(
        mean=float(np.nanmean(values)),
        low=low,
        high=high,
        chance=float(carried[carried > 0].mean() / len(test.y)),
        c=chosen.c,
        validation=chosen.validation,
        labels=len(train.names),
        train=len(train.x),
        test=len(test.x),
        per_label=[LabelPrecision(*row) for row in zip(train.names, carried.tolist(), values.tolist(), strict=True)],
        scaling=chosen.scaling,
        scalings=chosen.scalings,
        unseen=_unseen(train, test, scores),
    )
    return SeveralProbed(result, chosen.model, train.names)


def _unseen(train: MultiLabeled, test: MultiLabeled, scores: FloatArray) -> UnseenSeveral | None:
    if train.contents is None or test.contents is None:
        return None
    new = ~np.isin(test.contents, train.contents)
    if new.all():
        return None
    values = average_precisions(scores[new], test.y[new]) if new.any() else np.full(1, np.nan)
    mean = float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
    return UnseenSeveral(int((~new).sum()), int(new.sum()), mean)


def average_precisions(scores: FloatArray, y: BoolArray) -> npt.NDArray[np.float64]:
    """Average precision of each label (K,), with ties; NaN for labels without positive rows.

    Same as ``average_precision_score`` of scikit-learn.
    """
    return np.array([_weighted(*_ranked(scores[:, k], y[:, k]), None) for k in range(y.shape[1])])


def interval(scores: FloatArray, y: BoolArray, rng: np.random.Generator) -> tuple[float, float]:
    """95% bootstrap confidence interval of the mean average precision over the images."""
    counts = rng.multinomial(len(y), np.full(len(y), 1 / len(y)), max(100, min(RESAMPLES, 200_000_000 // max(1, y.size))))
    means = np.zeros(len(counts))
    used = np.zeros(len(counts))
    for k in range(y.shape[1]):
        order, right, ends = _ranked(scores[:, k], y[:, k])
        values = np.array([_weighted(order, right, ends, count) for count in counts])
        means += np.nan_to_num(values)
        used += np.isfinite(values)
    low, high = np.quantile(means / np.maximum(used, 1), LEVELS)
    return float(low), float(high)


def _ranked(scores: FloatArray, right: BoolArray) -> tuple[npt.NDArray[np.intp], BoolArray, npt.NDArray[np.intp]]:
    """Order by decreasing score, targets in this order, and the ends of runs of equal scores."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    return order, right[order], ends


def _weighted(
    order: npt.NDArray[np.intp], right: BoolArray, ends: npt.NDArray[np.intp], count: npt.NDArray[np.int64] | None
) -> float:
    """Average precision with image i repeated ``count[i]`` times (None: once)."""
    times = np.ones(len(order)) if count is None else count[order].astype(np.float64)
    found, seen = np.cumsum(times * right)[ends], np.cumsum(times)[ends]
    if not found[-1]:
        return float("nan")
    return float((np.diff(found, prepend=0) * found / np.maximum(seen, 1)).sum() / found[-1])


def _take(rows: MultiLabeled, index: npt.NDArray[np.intp]) -> MultiLabeled:
    contents = None if rows.contents is None else rows.contents[index]
    return MultiLabeled(rows.x[index], rows.y[index], rows.names, [rows.paths[i] for i in index], contents)
