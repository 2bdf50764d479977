"""Check that the license of weights is compatible with that of their training images."""

from __future__ import annotations

import re

from sslfeat.errors import UsageError

UNKNOWN_LICENSE = "not stated"
NOT_FOR_BUSINESS = re.compile(r"non[- ]?commercial|\bnc\b|research only", re.IGNORECASE)
PERMISSIVE = re.compile(r"apache|\bmit\b|bsd|cc0|cc[- ]by\b(?![- ]nc)|public domain", re.IGNORECASE)


def check_license(weights: str, images: str) -> None:
    """Raise UsageError for a permissive license with non-commercial images, unless the license mentions it."""
    if NOT_FOR_BUSINESS.search(images) and PERMISSIVE.search(weights) and not NOT_FOR_BUSINESS.search(weights):
        raise UsageError(
            f"the license of the weights, {weights}, does not mention that of the images, {images}: if intended, state it, "
            f"for example --license '{weights}, trained on non-commercial images'"
        )
