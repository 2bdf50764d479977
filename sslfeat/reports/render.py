"""Render templates to self-contained HTML files that need no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from sslfeat import __version__
from sslfeat.storage import atomic

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """Render ``templates/TEMPLATE``; values are escaped, a missing value raises jinja2.UndefinedError."""
    environment = Environment(
        loader=PackageLoader("sslfeat.reports"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["module"] = _module
    return environment.get_template(template).render(version=__version__, **values)


def _module(name: str) -> Markup:
    """A script of ``templates/`` without its imports; it must follow the scripts that it imports from."""
    lines = (TEMPLATES / name).read_text().splitlines()
    return Markup("\n".join(line for line in lines if not line.startswith("import ")))  # trusted: part of the package


def write_page(path: Path, html: str) -> None:
    """Write a page atomically; lone surrogates in file names are escaped."""
    atomic.write_atomic(path, html.encode("utf-8", "backslashreplace"))
