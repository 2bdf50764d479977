"""What every kind of container offers."""

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
MOST_TEXT = 4096  # characters of a value that describes an image
NO_LETTERS = re.compile(r"\W+")
TAKEN = frozenset(("path", "sha256", "width", "height", "label", "embedding", "removed"))
"""Names that mean something else where images are described; a column of such a name gets ``_`` behind it."""


@dataclass(frozen=True)
class Member:
    """An image in a container: its ``name`` there, its class if the container says so, and what else it says, as text.

    ``called``: the column that the class is of.
    """

    name: bytes
    label: str | None = None
    metadata: Mapping[str, str] | None = None
    called: str | None = None


class Container(Protocol):
    """Images in one file. ``fault`` says what of it cannot be read; what else there is can be."""

    fault: str | None

    def members(self) -> Iterator[Member]:
        """The images, in the order of the file."""
        ...

    def size(self, name: bytes) -> int:
        """Bytes of a member's file. Raises ImageError if there is no such member."""
        ...

    def read(self, name: bytes) -> bytes:
        """The contents of a member. Raises ImageError with a reason that is the same on every run."""
        ...


class MemberIndex:
    """Where members lie, by name: compact, for there may be millions."""

    def __init__(self, places: Mapping[bytes, tuple[int, int]]) -> None:
        """``places``: the offset and size of each."""
        self.names = sorted(places)
        self._places: npt.NDArray[np.int64] = np.array([places[name] for name in self.names], np.int64).reshape(-1, 2)

    def find(self, name: bytes) -> tuple[int, int] | None:
        """Offset and size."""
        row = bisect_left(self.names, name)
        if row == len(self.names) or self.names[row] != name:
            return None
        return int(self._places[row, 0]), int(self._places[row, 1])


def absent() -> ImageError:
    """What is raised for a name that no member has."""
    return ImageError("the container has no member of this name")


def text_of(value: Any) -> str | None:
    """A single value as text; None for what is missing, empty, or no single value."""
    if isinstance(value, dict | list | tuple | bytes) or value is None or value != value:
        return None
    return (str(value).lower() if isinstance(value, bool) else str(value).strip())[:MOST_TEXT] or None


def described(values: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """What is known of an image, as text by name: names are of letters, digits and ``_``, and none of TAKEN."""
    found = {}
    for name, value in values:
        if (text := text_of(value)) is not None:
            plain = NO_LETTERS.sub("_", name).strip("_") or "column"
            found[plain + "_" if plain in TAKEN else plain] = text
    return found
