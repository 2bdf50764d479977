"""Records that travel as JSON: what lies is refused by the name of its field."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from sslfeat.errors import FeaturesError
from sslfeat.storage.records import build_record, parse_record


@dataclass(frozen=True)
class Inner:
    share: float
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    count: int
    inner: Inner
    pairs: tuple[tuple[str, int], ...]
    facts: dict[str, int | None]
    flag: bool = False
    free: dict[str, Any] = field(default_factory=dict)
    mode: Literal["a", 1] = "a"
    numbers: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count is {self.count}: it cannot be below 0")


GOOD: dict[str, Any] = {"count": 1, "inner": {"share": 1}, "pairs": [["a", 2]], "facts": {"x": 3, "y": None}}


def parse(value: Any) -> Outer:
    return parse_record(Outer, json.dumps(value).encode(), "x.json", FeaturesError)


def test_a_record_is_read() -> None:
    assert parse(GOOD) == Outer(1, Inner(1), (("a", 2),), {"x": 3, "y": None})
    assert parse({**GOOD, "free": {"any": [1, {}]}, "flag": True}).free == {"any": [1, {}]}
    assert build_record(Outer, GOOD, "x", FeaturesError).count == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"count": True}, "count is True, not int"),
        ({"count": 1.5}, "count is 1.5, not int"),
        ({"count": "1"}, "count is '1', not int"),
        ({"count": None}, "count is None"),
        ({"count": 10**30}, "count is 1000"),
        ({"count": -1}, "cannot be below 0"),
        ({"inner": []}, "inner is a list of 0, not an object"),
        ({"inner": {}}, "inner: 'share' is missing"),
        ({"inner": {"share": float("nan")}}, "share is nan"),
        ({"inner": {"share": float("inf")}}, "share is inf"),
        ({"inner": {"share": 0, "names": [0]}}, r"names\[0\] is 0, not str"),
        ({"inner": {"share": 0, "names": "ab"}}, "names is 'ab'"),
        ({"inner": {"share": 0, "names": ["\ud800"]}}, r"names\[0\] is"),
        ({"pairs": [["a", 2, 3]]}, r"pairs\[0\]"),
        ({"pairs": {"a": 2}}, "pairs is a dict of 1"),
        ({"facts": {"x": "1"}}, r"facts\.x is '1', not int"),
        ({"facts": {"\udfff": 1}}, "facts is"),
        ({"flag": 1}, "flag is 1, not bool"),
        ({"more": 1}, "'more' is no field"),
        ({"mode": "b"}, r"mode is 'b', not one of \('a', 1\)"),
        ({"mode": True}, "mode is True, not one of"),
        ({"numbers": [1, "2"]}, r"numbers\[1\] is '2', not int"),
        ({"numbers": {}}, "numbers is a dict of 0"),
        ({"z" * 1000: 1}, r"z{30,60}\.\.\. is no field"),
    ],
)
def test_a_field_that_lies_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(FeaturesError, match=rf"x\.json: .*{said}"):
        parse({**GOOD, **change})


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000, b"1" * 5000, b"null", b"[]", b'"x"', b'{"a":1,"a":2}'])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(FeaturesError, match=r"^x\.json"):
        parse_record(Outer, data, "x.json", FeaturesError)


@pytest.mark.parametrize("name", ["count", "inner", "pairs", "facts"])
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(FeaturesError, match=f"'{name}' is missing"):
        parse({key: value for key, value in GOOD.items() if key != name})


@dataclass(frozen=True)
class Dated:
    format: int = 3


@pytest.mark.parametrize("value", [{}, {"format": 2}, {"format": "3"}, {"format": None}, {"format": 4, "later": 1}])
def test_another_format_is_told_before_anything_else(value: dict[str, Any]) -> None:
    with pytest.raises(FeaturesError, match=r"x\.json has format .*; this sslfeat reads format 3: upgrade"):
        parse_record(Dated, json.dumps(value), "x.json", FeaturesError)
    assert parse_record(Dated, b'{"format": 3}', "x.json", FeaturesError) == Dated()
