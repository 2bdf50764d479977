"""A gallery: sections of captioned images on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sslfeat.reports.display_names import short_names
from sslfeat.reports.render import render
from sslfeat.reports.thumbnails import SIDE, thumbnails


@dataclass(frozen=True)
class Shown:
    """An image by its path ``name``, with a ``caption``; ``marked`` ones stand out."""

    name: str
    caption: str
    marked: bool = False


Sections = Sequence[tuple[str, Sequence[Shown]]]


def gallery(title: str, about: str, sections: Sections, side: int = SIDE) -> str:
    """The page's HTML, every thumbnail inside, each image decoded once."""
    return render("gallery.html", title=title, about=about, sections=filled([sections], side)[0])


def filled(galleries: Sequence[Sections], side: int = SIDE) -> list[list[dict[str, Any]]]:
    """Sections for the macro ``gallery``, with thumbnails and short names: an image that is shown twice is decoded once."""
    names = sorted({shown.name for sections in galleries for _, images in sections for shown in images})
    uris = dict(zip(names, thumbnails(names, side), strict=True))
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
