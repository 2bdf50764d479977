"""Plots as PNG: a probe's confusion matrix and the recall of every class, and maps. They need matplotlib (``probe``)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sslfeat.errors import MissingExtraError
from sslfeat.evaluation.embedding_map import Map
from sslfeat.evaluation.probing.confusion import ClassFigures

NAMED, NUMBERED = 40, 15  # classes up to which axes carry names, and cells their share
BARS = 60  # classes in the plot of recalls: of more, the worst
DPI = 120


def confusion_png(counts: npt.NDArray[np.int64], names: Sequence[str]) -> bytes:
    """Rows are what images are, columns what they are taken for; colors are shares of the row."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = float(np.clip(2.5 + 0.32 * len(names), 4, 14))
    figure, axes = _axes(side, side)
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    axes.set_xlabel("taken for")
    axes.set_ylabel("is")
    if len(names) <= NAMED:
        axes.set_xticks(range(len(names)), [_short(name) for name in names], rotation=90)
        axes.set_yticks(range(len(names)), [_short(name) for name in names])
    if len(names) <= NUMBERED:
        for row, column in np.ndindex(*shares.shape):
            value = shares[row, column]
            if round(100 * value):
                ink = "black" if value > 0.5 else "white"
                axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=ink, fontsize=8)
    figure.colorbar(image, ax=axes, fraction=0.046, label="share of the row")
    return _png(figure)


def classes_png(classes: Sequence[ClassFigures]) -> bytes:
    """Recall of each class with its 95% interval, worst first."""
    shown = sorted((row for row in classes if row.test), key=lambda row: row.recall)[:BARS]
    figure, axes = _axes(7, float(np.clip(1 + 0.26 * len(shown), 2.5, 17)))
    places = np.arange(len(shown))[::-1]
    recall = np.array([row.recall for row in shown])
    ends = np.array([(row.recall - row.low, row.high - row.recall) for row in shown]).T
    axes.barh(places, recall, color="#4a78b5", xerr=np.maximum(ends, 0), ecolor="#222222")
    axes.set_yticks(places, [f"{_short(row.name)} ({row.test})" for row in shown])
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.7, len(shown) - 0.3)
    cut = f", the worst {BARS} of {len(classes)} classes" if len(classes) > BARS else ""
    axes.set_xlabel(f"recall, 95% interval{cut}")
    axes.grid(axis="x", alpha=0.3)
    return _png(figure)


def map_png(found: Map) -> bytes:
    """The points of a map in the colors of their groups."""
    figure, axes = _axes(9.5, 7)
    colors = np.array([group.color for group in found.groups])
    order = np.random.default_rng(0).permutation(len(found.points))  # so that no group lies on top
    size = float(np.clip(20_000 / len(order), 2, 40))
    axes.scatter(*found.points[order].T, s=size, c=colors[found.members[order]], alpha=0.7, linewidths=0)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(f"{found.method}, {len(order)} images", fontsize=10)
    for group in found.groups:
        axes.scatter([], [], c=group.color, label=f"{_short(group.name)} ({group.count})")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
    return _png(figure)


def _axes(width: float, height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("probe", "matplotlib") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _short(name: str) -> str:
    text = name if len(name) <= 24 else name[:23] + "…"
    return text.replace("$", r"\$")  # not a formula
