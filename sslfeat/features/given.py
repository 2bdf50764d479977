"""What a features folder was asked to be of, as it was written: by it, a command that brings the folder up to date can be said.

Paths are as they were given, as those of the images are: both hold from the same working folder.
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
    """``images``: folders, lists and all else that ``sslfeat embed`` takes; ``options``: of OPTIONS, each before its value."""

    images: tuple[str, ...]
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:  # anybody may have written it, and it is shown as a command to be pasted
        unknown = [name for name in self.options[::2] if name not in OPTIONS]
        if unknown or len(self.options) % 2:
            raise ValueError(f"options are {' '.join(self.options)[:60]!r}: not options of 'sslfeat embed', each with its value")
        if not self.images or any(image.startswith("-") for image in self.images):
            raise ValueError(f"images are {' '.join(self.images)[:60]!r}")

    @classmethod
    def of(cls, images: Sequence[str], options: Sequence[str] = ()) -> Given | None:
        """None for what cannot be given again, or is not to be kept: standard input, no UTF-8, a URL that may hold a secret."""
        if any(image.startswith("-") for image in images) or any(map(_is_secret, (*images, *options))):
            return None
        try:
            "".join((*images, *options)).encode()
        except UnicodeEncodeError:
            return None
        return cls(tuple(images), tuple(options))

    def value(self, option: str) -> str | None:
        """Of an option, the last one if it is there several times; None if it is not."""
        return dict(zip(self.options[::2], self.options[1::2], strict=True)).get(option)

    def update(self, out: Path) -> list[str]:
        """The words of the command that brings the folder ``out`` up to date."""
        return ["sslfeat", "embed", *self.images, "--out", str(out), *self.options, "--update"]

    def beyond(self, other: Given) -> tuple[str, ...]:
        """Those of its images that ``other`` does not name, however it writes them."""
        named = set(map(_place, other.images))
        return tuple(image for image in self.images if _place(image) not in named)

    def joined(self, later: Given) -> Given:
        """The images of both; an option that both have is as ``later`` has it."""
        pairs = zip(self.options[::2], self.options[1::2], strict=True)
        options = [word for name, value in pairs if name not in later.options[::2] for word in (name, value)]
        return Given((*self.images, *later.beyond(self)), (*options, *later.options))


def _place(image: str) -> str:
    return image if is_remote(image) else os.path.abspath(image)


def _is_secret(word: str) -> bool:
    """Whether it is a URL with a query, as signed ones have, or with a user."""
    return is_remote(word) and ("?" in word or "@" in word)
