"""Templates become one file of HTML that needs nothing else, not even a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from sslfeat import __version__
from sslfeat.storage import atomic


def render(template: str, **values: Any) -> str:
    """A page from ``templates/TEMPLATE``; what is put in is escaped, what is missing raises jinja2.UndefinedError."""
    environment = Environment(
        loader=PackageLoader("sslfeat.reports"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(version=__version__, **values)


def write_page(path: Path, html: str) -> None:
    """Write a page whole or not at all; lone surrogates of odd file names are escaped."""
    atomic.write_atomic(path, html.encode("utf-8", "backslashreplace"))
