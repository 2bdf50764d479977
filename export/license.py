"""Licenses of weights and of the images that they learned from: which may not go together by oversight."""

from __future__ import annotations

import re

from sslfeat.errors import UsageError

UNKNOWN_LICENSE = "not stated"
NOT_FOR_BUSINESS = re.compile(r"non[- ]?commercial|\bnc\b|research only", re.IGNORECASE)
PERMISSIVE = re.compile(r"apache|\bmit\b|bsd|cc0|cc[- ]by\b(?![- ]nc)|public domain", re.IGNORECASE)


def check_license(weights: str, images: str) -> None:
    """Raise UsageError for a permissive license over images that are not for business, unless it says so in words."""
    if NOT_FOR_BUSINESS.search(images) and PERMISSIVE.search(weights) and not NOT_FOR_BUSINESS.search(weights):
        raise UsageError(
            f"the weights are to be {weights}, the images are {images}: if that is meant, say so in words, "
            f"as --license '{weights}, trained on non-commercial images'"
        )
