"""Interface of containers."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sslfeat.errors import ImageError

LABEL_NAMES = ("label", "labels", "class", "cls", "class_name", "category")
MOST_TEXT = 4096  # maximum characters of a metadata value
NO_LETTERS = re.compile(r"\W+")
TAKEN = frozenset(("path", "sha256", "width", "height", "label", "embedding", "removed"))
"""Reserved names of metadata; ``_`` is appended to columns with these names."""


@dataclass(frozen=True)
class Member:
    """An image in a container: ``name``, class label if any, and metadata as strings.

    ``called``: name of the label's column.
    """

    name: bytes
    label: str | None = None
    metadata: Mapping[str, str] | None = None
    called: str | None = None


class Container(Protocol):
    """Images in one file. ``fault`` describes the part that cannot be read, if any; the rest can be."""

    fault: str | None

    def members(self) -> Iterator[Member]:
        """Yield the images in file order."""
        ...

    def size(self, name: bytes) -> int:
        """Size of a member in bytes. Raises ImageError if there is no such member."""
        ...

    def read(self, name: bytes) -> bytes:
        """Read a member. Raises ImageError with a reason that is identical in every run."""
        ...


class MemberIndex:
    """Offsets and sizes of members by name, in compact form, since there may be millions."""

    def __init__(self, places: Mapping[bytes, tuple[int, int]]) -> None:
        """``places``: offset and size by name."""
        self.names = sorted(places)
        self._places: npt.NDArray[np.int64] = np.array([places[name] for name in self.names], np.int64).reshape(-1, 2)

    def find(self, name: bytes) -> tuple[int, int] | None:
        """Offset and size."""
        row = bisect_left(self.names, name)
        if row == len(self.names) or self.names[row] != name:
            return None
        return int(self._places[row, 0]), int(self._places[row, 1])


def absent() -> ImageError:
    """Error for an unknown member."""
    return ImageError("the container has no member of this name")


def text_of(value: Any) -> str | None:
    """Convert a scalar to text; None for missing, empty or non-scalar values."""
    if isinstance(value, dict | list | tuple | bytes) or value is None or value != value:
        return None
    return (str(value).lower() if isinstance(value, bool) else str(value).strip())[:MOST_TEXT] or None


def described(values: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """Convert metadata to strings by name; names consist of letters, digits and ``_`` and are not in TAKEN."""
    found = {}
    for name, value in values:
        if (text := text_of(value)) is not None:
            plain = NO_LETTERS.sub("_", name).strip("_") or "column"
            found[plain + "_" if plain in TAKEN else plain] = text
    return found
