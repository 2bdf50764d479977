"""Groups of duplicates as JSON, and reviewed decisions on their pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sslfeat.dedup.near_duplicates import Copy, DuplicateGroup, Duplicates
from sslfeat.errors import InputError
from sslfeat.storage import atomic
from sslfeat.storage.records import build_record, parse_json

BESIDES = ("schema", "command", "encoder", "copies", "scenes")  # fields of 'sslfeat dedupe --json' that are ignored


@dataclass(frozen=True)
class Decision:
    """Which of two images of a group (by path) to keep."""

    left: str
    right: str
    keep: Literal["left", "right", "both"]


def read_duplicates(file: Path) -> Duplicates:
    """Read the ``.json`` file or ``--json`` output of ``sslfeat dedupe``. Raises InputError naming an invalid field."""
    try:
        value = parse_json(file.read_bytes(), str(file), InputError)
    except OSError as error:
        raise InputError(
            f"{file} cannot be read: {error.strerror}; 'sslfeat dedupe FEATURES --out GROUPS.json' writes it"
        ) from error
    if isinstance(value, dict):
        value = {name: item for name, item in value.items() if name not in BESIDES}
    return build_record(Duplicates, value, str(file), InputError)


def write_duplicates(file: Path, found: Duplicates) -> None:
    """Write groups for ``read_duplicates`` and 'sslfeat dedupe FILE'."""
    atomic.write_atomic(file, atomic.json_bytes({**dataclasses.asdict(found), "copies": found.copies, "scenes": found.scenes}))


def decide(found: Duplicates, decisions: Sequence[Decision]) -> Duplicates:
    """Groups after decisions on pairs: an image to keep, and the images that it replaces.

    Undecided pairs and pairs with both images kept move nothing. Raises InputError for a pair that is not in a group, or
    for circular replacements.
    """
    group_of = {copy.path: group for group in found.groups for copy in _images(group)}
    keepers: dict[str, str] = {}
    for decision in decisions:
        left, right = decision.left, decision.right
        if left == right or group_of.get(left) is None or group_of[left] is not group_of.get(right):
            raise InputError(f"{left} and {right} are not a pair of images of one group")
        if decision.keep != "both":
            kept, moved = (left, right) if decision.keep == "left" else (right, left)
            keepers[moved] = kept
    kept_of = {path: _last(path, keepers) for path in keepers}
    groups = []
    for group in found.groups:
        for leader in _images(group):
            copies = tuple(image for image in _images(group) if kept_of.get(image.path) == leader.path)
            if copies:
                groups.append(DuplicateGroup(leader, copies))
    return dataclasses.replace(found, groups=tuple(groups), why=f"decided by hand; {found.why}", by_hand=True)


def _images(group: DuplicateGroup) -> tuple[Copy, ...]:
    return (group.kept, *group.copies)


def _last(path: str, keepers: dict[str, str]) -> str:
    """Final image of a chain of replacements."""
    seen = {path}
    while path in keepers:
        path = keepers[path]
        if path in seen:
            raise InputError(f"{path} would be replaced by an image that it replaces: keep one of them")
        seen.add(path)
    return path
