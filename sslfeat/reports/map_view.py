"""Interactive map on one page: zoom, image preview under the pointer, groups to show and hide."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import Any

import numpy as np

from sslfeat.evaluation.embedding_map import GRAY, Map
from sslfeat.reports.display_names import short_names
from sslfeat.reports.render import render
from sslfeat.reports.sprites import COLUMNS, PER_SHEET, sprites

SIDE = 40


def map_view(found: Map, side: int = SIDE) -> dict[str, Any]:
    """Data for the template ``map_view.html``: points as 16-bit integers, group numbers, names and thumbnails."""
    low, high = found.points.min(0), found.points.max(0)
    span = max(float((high - low).max()), 1e-30)
    places = np.round((found.points - (low + high) / 2) / span * 65_000 + 32_768).astype("<u2")
    packed = sprites(found.paths, side)
    return {
        "points": base64.b64encode(places.tobytes()).decode(),
        "members": base64.b64encode(found.members.astype(np.uint8).tobytes()).decode(),
        "quiet": GRAY,
        "by": found.by if found.colored else "",
        "groups": [asdict(group) for group in found.groups],
        "names": short_names(found.paths),
        "side": side,
        "columns": COLUMNS,
        "perSheet": PER_SHEET,
        "sheets": packed.sheets,
        "missing": packed.missing,
    }


def map_page(title: str, about: str, found: Map, side: int = SIDE) -> str:
    """The HTML page."""
    return render("map.html", title=title, about=about, view=map_view(found, side))
