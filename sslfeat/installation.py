"""The line that adds an extra to the installation at hand, be it from an index, a wheel or a checkout."""

from __future__ import annotations

import shlex
from importlib.metadata import PackageNotFoundError, requires


def install_line(extra: str) -> str:
    """A pip command that installs the packages of ``extra``: they are named one by one, so no index need have sslfeat."""
    try:
        found = requires("sslfeat") or []
    except PackageNotFoundError:  # a checkout that was never installed
        found = []
    wanted = {f'extra == "{extra}"', f"extra == '{extra}'"}
    packages = [name.strip() for name, _, marker in (line.partition(";") for line in found) if marker.strip() in wanted]
    if not packages:
        return f"pip install -e '.[{extra}]' in a checkout of sslfeat"
    return f"pip install {shlex.join(packages)}"
