"""What values the options of methods can have: refused by name, value and range, and shown by --help."""

from __future__ import annotations

import dataclasses
import math

import pytest

from sslfeat.cli.methods import method_help
from sslfeat.errors import UsageError
from sslfeat.models.method import find_method, make_config, method_names
from sslfeat.models.ranges import Range, check_ranges, ranges

EVERY = pytest.mark.parametrize("name", method_names())


@pytest.mark.parametrize(
    ("method", "option", "value", "said"),
    [
        ("simclr", "gray", "3", "option gray is 3: it must be at least 0 and at most 1"),
        ("simclr", "temperature", "-1", "option temperature is -1: it must be more than 0"),
        ("rotation", "min_area", "7", "option min_area is 7: it must be more than 0 and at most 1"),
        ("byol", "jitter", "-4", "option jitter is -4: it must be at least 0"),
        ("byol", "jitter", "nan", "option jitter is nan"),
        ("dino", "local_views", "-1", "option local_views is -1"),
    ],
)
def test_a_value_out_of_range_is_refused(method: str, option: str, value: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make_config(find_method(method), {option: value})


@EVERY
def test_every_number_has_a_range_and_its_default_is_in_it(name: str) -> None:
    kind = find_method(name)
    check_ranges(kind.Config())
    numbers = {field.name for field in dataclasses.fields(kind.Config) if type(field.default) in (int, float)}
    assert numbers == set(ranges(kind.Config))


def test_help_shows_type_range_and_default() -> None:
    assert "  gray  float, at least 0 and at most 1  [default: 0.2]" in method_help("simclr")
    assert "  crop  bool  [default: True]" in method_help("rotation")


def test_ends_of_ranges() -> None:
    assert 1 in Range(0, 1)
    assert 1 not in Range(0, 1, below=True)
    assert 0 not in Range(0, above=True)
    assert math.inf not in Range(0)
