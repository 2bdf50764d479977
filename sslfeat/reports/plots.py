"""Plots: confusion matrix and recall per class as SVG, for light and dark mode; maps as PNG (matplotlib)."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sslfeat.errors import MissingExtraError
from sslfeat.evaluation.embedding_map import Map
from sslfeat.evaluation.probing.confusion import ClassFigures
from sslfeat.numerics.arrays import IntArray
from sslfeat.system.plurals import counted

NAMED, NUMBERED = 40, 20  # largest number of classes for which axes have names, and cells show their share
BARS = 60  # largest number of classes in the recall plot; the worst are shown
DPI = 120
BLUE = "#4a86d8"  # visible on white and on black
FONT, LETTER = 11, 6.2  # px: font size and width of a letter
LINE, BAR = 21, 240  # px, in the recall plot


def confusion_svg(counts: IntArray, names: Sequence[str]) -> str:
    """Confusion matrix: rows are true classes, columns predicted classes; the color is the share of the row."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    named = len(names) <= NAMED
    left = _gutter(names) if named else 24
    cell = max(16.0, 260 / len(names)) if named else 420 / len(names)
    side = cell * len(names)
    marks = [_heat(shares, left)] if not named else []
    for row, column in np.argwhere(counts) if named else ():
        x, y, share = left + column * cell, row * cell, shares[row, column]
        told = f"{names[row]} predicted as {names[column]}: {counts[row, column]} of {counts[row].sum()}"
        box = f'x="{x + 0.5:.1f}" y="{y + 0.5:.1f}" width="{cell - 1:.1f}" height="{cell - 1:.1f}" rx="2"'
        marks.append(f'<rect {box} fill="{BLUE}" fill-opacity="{0.06 + 0.94 * share:.3f}"><title>{_text(told)}</title></rect>')
        if len(names) <= NUMBERED and round(100 * share):
            ink = ' fill="#0b1526"' if share > 0.75 else ""
            marks.append(_label(x + cell / 2, y + cell / 2, f"{100 * share:.0f}", "middle", 10, more=ink))
    for number, name in enumerate(names if named else ()):
        at = (number + 0.5) * cell
        marks.append(_label(left - 6, at, _short(name), "end", title=name))
        turned = f' transform="rotate(-90 {left + at:.1f} {side + 6:.1f})"'
        marks.append(_label(left + at, side + 6, _short(name), "end", title=name, more=turned))
    height = side + (left if named else 24)
    if not named:
        marks.append(_label(left + side / 2, side + 14, "predicted", "middle"))
        marks.append(_label(14, side / 2, "true", "middle"))
    return _svg(left + side + 2, height, "confusion matrix: rows are true classes, columns predicted classes", marks)


def recall_svg(classes: Sequence[ClassFigures]) -> str:
    """Recall of each class with its 95% confidence interval, worst first."""
    shown = sorted((row for row in classes if row.test), key=lambda row: row.recall)[:BARS]
    left, height = _gutter([row.name for row in shown]), LINE * len(shown)
    marks = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = left + BAR * share
        marks.append(f'<path d="M{x:.1f} 0V{height}" stroke="currentColor" stroke-opacity=".15"/>')
        marks.append(_label(x, height + 11, f"{100 * share:.0f}", "middle", 10))
    for number, row in enumerate(shown):
        y = LINE * (number + 0.5)
        low, high = (left + BAR * end for end in (row.low, row.high))
        told = f"{row.name}: {100 * row.recall:.1f}% of {row.test}, 95% CI {100 * row.low:.1f} to {100 * row.high:.1f}%"
        marks.append(
            f'<rect x="{left}" y="{y - 6:.1f}" width="{BAR * row.recall:.1f}" height="12" rx="2" fill="{BLUE}">'
            f"<title>{_text(told)}</title></rect>"
            f'<path d="M{low:.1f} {y}H{high:.1f}M{low:.1f} {y - 3}v6M{high:.1f} {y - 3}v6" stroke="currentColor" '
            'stroke-opacity=".7" fill="none"/>'
        )
        marks.append(_label(left - 6, y, _short(row.name), "end", title=told))
        marks.append(_label(left + BAR + 10, y, f"{100 * row.recall:.0f}%"))
    cut = f", the worst {BARS} of {len(classes)} classes" if len(classes) > BARS else ""
    return _svg(left + BAR + 44, height + 20, f"recall of each class in %, with 95% confidence interval{cut}", marks)


def map_png(found: Map) -> bytes:
    """Scatter plot of a map, colored by group."""
    figure, axes = _axes(9.5, 7)
    colors = np.array([group.color for group in found.groups])
    order = np.random.default_rng(0).permutation(len(found.points))  # random drawing order of groups
    size = float(np.clip(20_000 / len(order), 2, 40))
    axes.scatter(*found.points[order].T, s=size, c=colors[found.members[order]], alpha=0.7, linewidths=0)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(f"{found.method}, {counted(len(order), 'image')}", fontsize=10)
    for group in found.groups:
        label = _short(group.name).replace("$", r"\$")  # not a formula
        axes.scatter([], [], c=group.color, label=f"{label} ({group.count})")
    by = found.by.replace("$", r"\$") if found.colored else None
    axes.legend(title=by, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _axes(width: float, height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("probe", "matplotlib") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _heat(shares: npt.NDArray[np.float64], left: float) -> str:
    """Draw many cells as one mask image, enlarged here because viewers interpolate small images."""
    each = -(-840 // len(shares))
    gray = Image.fromarray(np.kron(np.sqrt(shares) * 255, np.ones((each, each))).astype(np.uint8))
    buffer = io.BytesIO()
    gray.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<mask id="shares"><image x="{left}" width="420" height="420" href="data:image/png;base64,{data}"/></mask>'
        f'<rect x="{left}" width="420" height="420" fill="{BLUE}" mask="url(#shares)"/>'
        f'<rect x="{left}" width="420" height="420" fill="none" stroke="currentColor" stroke-opacity=".2"/>'
    )


def _svg(width: float, height: float, told: str, marks: Sequence[str]) -> str:
    """An SVG in currentColor and blue, readable on white and on black."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{told}" '
        f'fill="currentColor" font-family="system-ui, sans-serif">{"".join(marks)}</svg>'
    )


def _label(x: float, y: float, text: str, anchor: str = "start", size: int = FONT, title: str = "", more: str = "") -> str:
    inner = _text(text) + (f"<title>{_text(title)}</title>" if title else "")
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" dominant-baseline="central" font-size="{size}"{more}>'
        f"{inner}</text>"
    )


def _gutter(names: Sequence[str]) -> float:
    return 10 + LETTER * max((len(_short(name)) for name in names), default=0)


def _short(name: str) -> str:
    return name if len(name) <= 20 else name[:19] + "…"


def _text(text: str) -> str:
    """Escape text for XML; replaces control characters and lone surrogates."""
    return escape("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text))
