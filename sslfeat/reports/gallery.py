"""HTML gallery: sections of images with captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sslfeat.reports.display_names import short_names
from sslfeat.reports.render import render
from sslfeat.reports.thumbnails import side_for, thumbnails


@dataclass(frozen=True)
class Shown:
    """An image with path ``name``, a ``caption``, and ``facts``, one per line.

    ``marked``: the reference image of its row.
    """

    name: str
    caption: str
    marked: bool = False
    facts: Sequence[str] = ()


Sections = Sequence[tuple[str, Sequence[Shown]]]


def gallery(title: str, about: str, sections: Sections) -> str:
    """The HTML page, with all images embedded; each image is decoded once."""
    return render("gallery.html", title=title, about=about, sections=filled([sections])[0])


def filled(galleries: Sequence[Sections]) -> list[list[dict[str, Any]]]:
    """Sections for the macro ``gallery``, with thumbnails and short names; each image is decoded once."""
    names = sorted({shown.name for sections in galleries for _, images in sections for shown in images})
    uris = dict(zip(names, thumbnails(names, side_for(len(names))), strict=True))
    short = dict(zip(names, short_names(names), strict=True))
    return [
        [
            {
                "title": heading,
                "images": [{**vars(shown), "name": short[shown.name], "uri": uris[shown.name]} for shown in images],
            }
            for heading, images in sections
        ]
        for sections in galleries
    ]
