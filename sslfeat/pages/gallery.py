"""A gallery: sections of captioned pictures on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sslfeat.pages.page import render
from sslfeat.pages.thumbnails import SIDE, thumbnails


@dataclass(frozen=True)
class Shown:
    """A picture by its path ``name``, with a ``caption``; ``marked`` ones stand out."""

    name: str
    caption: str
    marked: bool = False


def gallery(title: str, about: str, sections: Sequence[tuple[str, Sequence[Shown]]], side: int = SIDE) -> str:
    """The page's HTML, every thumbnail inside, each picture decoded once."""
    names = sorted({shown.name for _, pictures in sections for shown in pictures})
    uris = dict(zip(names, thumbnails(names, side), strict=True))
    filled = [
        {"title": heading, "pictures": [{**vars(shown), "uri": uris[shown.name]} for shown in pictures]}
        for heading, pictures in sections
    ]
    return render("gallery.html", title=title, about=about, sections=filled)
