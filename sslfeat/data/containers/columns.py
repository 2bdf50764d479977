"""Find the columns of images, classes and metadata in a table, by the Hugging Face features or by name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sslfeat.data.containers.base import LABEL_NAMES, Member, described, text_of

IMAGE_NAMES = ("image", "img", "images", "image_bytes", "bytes", "jpg", "jpeg", "png", "webp", "picture", "photo", "content")
FILE = "file"  # name of the metadata field with an image's file name


@dataclass(frozen=True)
class Columns:
    """``image`` is a column of bytes, or (``nested``) of structs with ``bytes``; ``classes``: names of ClassLabels."""

    image: str
    nested: bool
    named: bool
    label: str | None
    others: tuple[str, ...]
    classes: dict[str, list[str]]

    @classmethod
    def of(cls, schema: pa.Schema) -> Columns | None:
        """Find the columns of a table; None if there are no images."""
        features = _features(schema)
        fields = {name: schema.field(name).type for name in schema.names if schema.names.count(name) == 1}
        found = [name for name, kind in fields.items() if _holds_images(name, kind, features)]
        if not found:
            return None
        image = min(found, key=lambda name: (name not in IMAGE_NAMES, IMAGE_NAMES.index(name) if name in IMAGE_NAMES else 0))
        classes = {name: names for name in fields if (names := _class_names(features.get(name))) is not None}
        plain = [name for name, kind in fields.items() if name != image and not pa.types.is_nested(kind) and not _is_binary(kind)]
        named = [name for name in LABEL_NAMES if name in plain] or [name for name in plain if name in classes]
        label = named[0] if named else None
        kind = fields[image]
        inner = {kind.field(place).name for place in range(kind.num_fields)} if pa.types.is_struct(kind) else set()
        return cls(image, bool(inner), "path" in inner, label, tuple(name for name in plain if name != label), classes)

    @property
    def contents(self) -> str:
        """Column to read for the images."""
        return f"{self.image}.bytes" if self.nested else self.image

    @property
    def described(self) -> list[str]:
        """Columns to read for labels and metadata."""
        own = [f"{self.image}.path"] if self.named else []
        return [*own, *([self.label] if self.label else []), *self.others]

    def members(self, batch: pa.RecordBatch, first: int) -> list[Member]:
        """Members of the rows of ``batch``, whose first row is number ``first``, without the images."""
        values = {name: batch[name].to_pylist() for name in (*self.others, *([self.label] if self.label else []))}
        own = [value and value.get("path") for value in batch[self.image].to_pylist()] if self.named else None
        members = []
        for row in range(batch.num_rows):
            facts = described((name, self._text(name, values[name][row])) for name in self.others)
            if own is not None:
                facts |= described([(FILE, own[row])])
            label = text_of(self._text(self.label, values[self.label][row])) if self.label else None
            members.append(Member(row_name(first + row), label, facts or None, self.label))
        return members

    def _text(self, name: str, value: Any) -> Any:
        names = self.classes.get(name)
        if names is None or not isinstance(value, int):
            return value
        return names[value] if 0 <= value < len(names) else None


def row_name(row: int) -> bytes:
    """Member name of a row."""
    return b"%08d" % row


def row_of(name: bytes, rows: int) -> int | None:
    """Row of a member name; None if there is none."""
    row = int(name) if name.isdigit() and len(name) < 19 else rows
    return row if row < rows and name == row_name(row) else None


def _holds_images(name: str, kind: pa.DataType, features: dict[str, Any]) -> bool:
    if pa.types.is_struct(kind):
        inner = {kind.field(place).name: kind.field(place).type for place in range(kind.num_fields)}
        return "bytes" in inner and _is_binary(inner["bytes"]) and set(inner) <= {"bytes", "path"}
    feature = features.get(name)
    named = isinstance(feature, dict) and feature.get("_type") == "Image"
    return _is_binary(kind) and (named or name.lower() in IMAGE_NAMES)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Features in the schema metadata of Hugging Face datasets; empty if there are none."""
    try:
        noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = noted["info"]["features"]
        return features if isinstance(features, dict) else {}
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}


def _class_names(feature: Any) -> list[str] | None:
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    return [str(name) for name in names] if isinstance(names, list) else None
