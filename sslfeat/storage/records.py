"""JSON records as frozen dataclasses, validated strictly; errors name the invalid field.

``__post_init__`` of a class does further validation and raises ValueError. A class with a field ``format`` only accepts
the default of this field as format.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import types
import typing
from typing import Any, TypeVar

from sslfeat.errors import SslfeatError
from sslfeat.storage import atomic

T = TypeVar("T")
DEEPEST = 50  # JSON within JSON
LARGEST = 2**63 - 1  # range of int64
SHOWN = 60  # maximum characters of a quoted value
CHECK = "check"  # field of a signed record with the hash of the others


def parse_record(kind: type[T], data: bytes | str, where: str, error: type[SslfeatError]) -> T:
    """Parse JSON ``data`` as a record of this ``kind``. Raises ``error``, naming ``where`` and the invalid field."""
    return build_record(kind, parse_json(data, where, error), where, error)


def parse_json(data: bytes | str, where: str, error: type[SslfeatError]) -> Any:
    """Parse untrusted JSON. Raises ``error`` naming ``where``."""
    try:
        value = json.loads(data, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as cause:  # ValueError: invalid JSON or UTF-8, or numbers with thousands of digits
        raise error(f"{where} is damaged: it is not JSON ({str(cause)[:SHOWN]})") from cause
    inner = [value]
    for _ in range(DEEPEST):
        groups = (item.values() if isinstance(item, dict) else item for item in inner if isinstance(item, dict | list))
        inner = [item for group in groups for item in group]
        if not inner:
            return value
    raise error(f"{where} is damaged: it is nested more than {DEEPEST} deep")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("duplicate field")
    return found


def build_record(kind: type[T], value: Any, where: str, error: type[SslfeatError]) -> T:
    """Build a record from a parsed value: all fields present or with a default, of their types, no unknown fields."""
    try:
        return typing.cast(T, _record(kind, value, where))
    except _Fault as fault:
        raise error(str(fault)) from fault


def signed_bytes(fields: dict[str, Any]) -> bytes:
    """JSON of a record with its hash, to detect corruption."""
    return atomic.json_bytes({**fields, CHECK: _hash(fields)})


@dataclasses.dataclass(frozen=True)
class SignedRecord:
    """A record with a field ``format``, stored with its hash."""

    EARLIER: typing.ClassVar[tuple[int, ...]] = ()  # older formats accepted; their missing fields have defaults

    def to_json(self) -> bytes:
        """Contents of the file."""
        return signed_bytes(dataclasses.asdict(self))

    def plain(self) -> dict[str, Any]:
        """Fields by name as JSON values, for printing and comparison."""
        return typing.cast("dict[str, Any]", json.loads(atomic.json_bytes(dataclasses.asdict(self))))

    @classmethod
    def parse(cls, data: bytes, where: str, error: type[SslfeatError], remedy: str) -> typing.Self:
        """Parse the output of ``to_json``. Raises ``error`` with the ``remedy`` if altered, invalid, or of another format."""
        fields = parse_json(data, where, error)
        if not isinstance(fields, dict):
            raise error(f"{where} is damaged: {remedy} with --overwrite")
        known = next(field.default for field in dataclasses.fields(cls) if field.name == "format")
        if (found := fields.get("format")) not in (known, *cls.EARLIER):
            raise error(f"{where} has format {_show(found)}; this sslfeat reads {known}: {remedy}")
        if fields.pop(CHECK, None) != _hash(fields):
            raise error(f"{where} was altered: {remedy} with --overwrite")
        return build_record(cls, {**fields, "format": known}, where, error)


def _hash(fields: dict[str, Any]) -> str | None:
    try:
        return hashlib.sha256(atomic.json_bytes(fields)).hexdigest()
    except (RecursionError, ValueError):  # nested too deeply, or lone surrogates: never written by us
        return None


class _Fault(Exception):
    """An invalid value and its position."""


@functools.cache
def _types(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _Fault(f"{where} is {_show(value)}, not an object")
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    if "format" in fields and value.get("format") != fields["format"].default:
        raise _Fault(
            f"{where} has format {_show(value.get('format'))}; this sslfeat reads format {fields['format'].default}: "
            "upgrade sslfeat, or make it again"
        )
    unknown = sorted(set(value) - set(fields))
    needed = {
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    for names, fault in ((unknown, "is no field of it"), (sorted(needed - set(value)), "is missing")):
        if names:
            raise _Fault(f"{where}: {_show(names[0])} {fault}")
    checked = {name: _value(_types(kind)[name], item, f"{where}: {name}") for name, item in value.items()}
    try:
        return kind(**checked)
    except (ValueError, SslfeatError) as fault:
        raise _Fault(f"{where}: {fault}") from fault


def _value(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and types.NoneType in arguments:
            return None
        (kind,) = (argument for argument in arguments if argument is not types.NoneType)
        return _value(kind, value, where)
    if origin is typing.Literal and any(type(value) is type(known) and value == known for known in arguments):
        return value
    if origin is list and isinstance(value, list):
        return [_value(arguments[0], item, f"{where}[{number}]") for number, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {_value(str, key, where): _value(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is tuple and isinstance(value, list):
        each = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(each) == len(value):
            return tuple(_value(a, item, f"{where}[{i}]") for i, (a, item) in enumerate(zip(each, value, strict=True)))
    if origin is None and _is_plain(kind, value):
        return value
    expected = f"one of {arguments}" if origin is typing.Literal else kind if origin else getattr(kind, "__name__", kind)
    raise _Fault(f"{where} is {_show(value)}, not {expected}")


def _is_plain(kind: Any, value: Any) -> bool:
    if kind is str:
        return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)
    if kind in (int, float):
        number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        return number and (abs(value) <= LARGEST if isinstance(value, int) else math.isfinite(value))
    return isinstance(value, kind)


def _show(value: Any) -> str:
    text = repr(value) if not isinstance(value, dict | list) else f"a {type(value).__name__} of {len(value)}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
