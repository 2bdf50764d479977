"""The inputs and options of the original ``sslfeat embed`` command, recorded so that an update command can be printed.

Paths are recorded as given, relative to the working folder, like the paths of the images.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sslfeat.storage.urls import is_remote

OPTIONS = frozenset((
    "--encoder", "--batch-size", "--part-size", "--format", "--precision", "--decode", "--provider", "--threads", "--max-pixels",
    "--max-memory", "--max-seconds", "--exclude", "--labels", "--every",
))  # fmt: skip


@dataclass(frozen=True)
class Given:
    """``images``: inputs of ``sslfeat embed``; ``options``: names from OPTIONS, each followed by its value."""

    images: tuple[str, ...]
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:  # untrusted, and printed as a command to paste
        unknown = [name for name in self.options[::2] if name not in OPTIONS]
        if unknown or len(self.options) % 2:
            raise ValueError(f"options are {' '.join(self.options)[:60]!r}: not options of 'sslfeat embed', each with its value")
        if not self.images or any(image.startswith("-") for image in self.images):
            raise ValueError(f"images are {' '.join(self.images)[:60]!r}")

    @classmethod
    def of(cls, images: Sequence[str], options: Sequence[str] = ()) -> Given | None:
        """None if the command cannot be repeated or must not be recorded: standard input, not UTF-8, a URL with a secret."""
        if any(image.startswith("-") for image in images) or any(map(_is_secret, (*images, *options))):
            return None
        try:
            "".join((*images, *options)).encode()
        except UnicodeEncodeError:
            return None
        return cls(tuple(images), tuple(options))

    def value(self, option: str) -> str | None:
        """Value of an option (the last if repeated); None if it was not given."""
        return dict(zip(self.options[::2], self.options[1::2], strict=True)).get(option)

    def update(self, out: Path) -> list[str]:
        """Return the command that updates the folder ``out``, as a list of arguments."""
        return ["sslfeat", "embed", *self.images, "--out", str(out), *self.options, "--update"]

    def beyond(self, other: Given) -> tuple[str, ...]:
        """Return the images that ``other`` does not contain, compared by absolute path."""
        named = set(map(_place, other.images))
        return tuple(image for image in self.images if _place(image) not in named)

    def joined(self, later: Given) -> Given:
        """Return the images of both; ``later`` overrides common options."""
        pairs = zip(self.options[::2], self.options[1::2], strict=True)
        options = [word for name, value in pairs if name not in later.options[::2] for word in (name, value)]
        return Given((*self.images, *later.beyond(self)), (*options, *later.options))


def _place(image: str) -> str:
    return image if is_remote(image) else os.path.abspath(image)


def _is_secret(word: str) -> bool:
    """Whether it is a URL with a query (signed URLs) or a user."""
    return is_remote(word) and ("?" in word or "@" in word)
