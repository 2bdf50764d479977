"""Conditions on the columns of an index."""

from __future__ import annotations

import difflib
import fnmatch
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sslfeat.errors import InputError
from sslfeat.system.dates import Moment
from sslfeat.system.plurals import counted

CONDITION = re.compile(r"\s*([^=~<>!]*[^=~<>!\s])(\s*)(!?[=~]|[<>]=?)(.*)", re.DOTALL)
FEW, MANY = 12, 1000  # values of a field that are listed, and among which the one meant is looked for
ORDER = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True)
class Condition:
    """``field`` equals ``text``, matches it as a glob, or compares by ``order`` as number or date.

    ``negated``: the opposite; missing values never equal or match.
    """

    field: str
    negated: bool
    glob: bool
    text: str
    order: str = ""

    @classmethod
    def parse(cls, condition: str, fields: Sequence[str]) -> Condition:
        """FIELD=TEXT, FIELD~GLOB, either with ``!`` for not, or FIELD<NUMBER or FIELD<DATE, <=, > or >=, FIELD one of ``fields``.

        Spaces around the operator are ignored. Raises InputError, with a suggestion for an unknown field.
        """
        parsed = CONDITION.fullmatch(condition)
        if parsed is None or parsed[1] not in fields:
            near = "" if parsed is None else _near(parsed[1], fields)
            raise InputError(
                f"--where {condition!r} is invalid{near}: use FIELD=TEXT or FIELD~GLOB, != or !~ to negate, "
                f"FIELD<NUMBER or DATE, <=, > or >=, FIELD one of {', '.join(fields)}"
            )
        field, spaces, sign, text = parsed.groups()
        text = text.strip() if spaces else text
        if sign in ORDER and _number(text) is None and Moment.parse(text) is None:
            cure = _apart(text) or _with_point(text) or " nor a date such as 2024-01-31"
            raise InputError(f"--where {condition!r}: {text!r} is not a number{cure}")
        return cls(field, sign.startswith("!"), sign.endswith("~"), text, sign if sign in ORDER else "")

    def read(self, values: Iterable[Any]) -> list[bool | None]:
        """Whether each value of the field meets the condition, without negation.

        None for missing and incomparable values.
        """
        test, values = self._test(), list(values)
        known = {value: None if value is None else test(str(value)) for value in set(values)}
        return [known[value] for value in values]

    def met(self, read: Iterable[bool | None]) -> npt.NDArray[np.bool_]:
        """Mask (N,) of the ``read`` values that meet the condition."""
        mask: npt.NDArray[np.bool_] = np.array([one is True for one in read], bool) != self.negated
        return mask

    def _test(self) -> Callable[[str], bool | None]:
        if self.order:
            return self._in_order()
        if self.glob:
            match = re.compile(fnmatch.translate(self.text)).match
            return lambda value: match(value) is not None
        return lambda value: value == self.text

    def _in_order(self) -> Callable[[str], bool | None]:
        """Compares two numbers or two dates."""
        compare, limit, day = ORDER[self.order], _number(self.text), Moment.parse(self.text)

        def test(value: str) -> bool | None:
            if limit is not None and (number := _number(value)) is not None:
                return bool(compare(number, limit))
            if day is not None and (moment := Moment.parse(value)) is not None:
                return bool(compare(*moment.beside(day)))
            return None

        return test

    @property
    def kind(self) -> str:
        """Type of values that can be compared."""
        return "date" if _number(self.text) is None else "number"

    def __str__(self) -> str:
        return f"--where '{self.field}{'!' * self.negated}{self.order or '=~'[self.glob]}{self.text}'"


@dataclass
class NumbersRead:
    """Counts of comparable and other values of a field, for an order condition."""

    condition: Condition
    numbers: int = 0
    others: int = 0
    example: str = ""  # first value that cannot be compared

    def add(self, values: Sequence[Any], read: Sequence[bool | None], counts: Sequence[int] | None = None) -> None:
        """Count values (None: missing) with their results of ``read``; ``counts``: how often each occurs, default once."""
        for value, one, count in zip(values, read, [1] * len(values) if counts is None else counts, strict=True):
            if one is not None:
                self.numbers += count
            elif value is not None and count:
                self.example = self.example or str(value)
                self.others += count

    def note(self) -> str:
        """Note on values that are not numbers or dates, or "". Raises InputError if none is one."""
        field, kind = self.condition.field, self.condition.kind
        if self.others and not self.numbers:
            cure, plain = _with_point(self.example), {"date": "dates such as 2024-01-31", "number": "plain numbers"}[kind]
            raise InputError(
                f"{self.condition}: no value of {field} is a {kind}, for example {self.example!r}{cure}: write {plain} "
                "in the list, then update features and index ('embed --update', 'index --sync')"
            )
        if not self.others:
            return ""
        values = counted(self.others, "value")
        return f"{self.condition}: {values} of {field} ignored, not a {kind}, for example {self.example!r}"


@dataclass
class ValuesSeen:
    """Values of a field, to explain why a condition matched nothing."""

    condition: Condition
    rows: int = 0
    met: bool = False
    values: set[str] = field(default_factory=set)  # at most MANY

    def add(self, values: Sequence[Any], met: bool) -> None:
        """Add values; ``met``: whether one of them meets the condition."""
        self.rows += len(values)
        self.met = self.met or met
        if len(self.values) < MANY:
            self.values.update(str(value) for value in values if value is not None)

    def check(self) -> None:
        """Raise InputError if no row has a value of the field."""
        if self.rows and not self.values and not self.condition.negated:
            cure = "; labels come from class folders or from a list" if self.condition.field == "label" else ""
            raise InputError(f"{self.condition}: no image has the field {self.condition.field}{cure}")

    def why(self) -> str:
        """Reason why no value meets the condition."""
        name, text = self.condition.field, self.condition.text
        if self.condition.negated:
            return f"{self.condition}: all images have this value"
        if not self.values:
            return f"{self.condition}: no image has the field {name}"
        if self.condition.order:
            return f"{self.condition}: no {name} is {self.condition.order}{text}"
        if not text:
            return f"{self.condition}: no {name} is an empty string; images without {name} match {name}!~?*"
        if self.condition.glob:
            whole = "" if re.search(r"[*?[]", text) else f": a glob must match the whole value, such as *{text}*"
            return f"{self.condition}: no {name} matches{whole}"
        if len(self.values) <= FEW:
            return f"{self.condition}: {name} is one of {', '.join(sorted(self.values))}"
        near = _nearest(text, sorted(self.values))
        return f"{self.condition}: no image has this {name}{f': did you mean {near!r}?' if near else ''}"


def distinct(column: pa.ChunkedArray) -> tuple[list[Any], npt.NDArray[np.int64]]:
    """Distinct values of a column, the last one None, and the place of each row's value among them, (N,)."""
    encoded = column.combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    return [*values, None], encoded.indices.cast(pa.int64()).fill_null(len(values)).to_numpy()


def as_conditions(where: str | Sequence[str]) -> Sequence[str]:
    """A list of conditions; a string is a single one."""
    return [where] if isinstance(where, str) else where


class Filter:
    """Conditions on rows that are read in parts; ``notes`` afterwards reports values that could not be compared, and
    why nothing matched."""

    def __init__(self, conditions: str | Sequence[str]) -> None:
        self._conditions = as_conditions(conditions)
        self._read: dict[str, NumbersRead] = {}
        self._seen: dict[str, ValuesSeen] = {}
        self._found = False

    def met(self, columns: pa.Table, there: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.bool_]:
        """Mask (N,) of the rows that meet all conditions; fields are columns.

        Columns include metadata of lists and containers. A row without label meets ``label!=...``;
        a value that is not a number meets no order condition. ``there`` (N,): rows that are not removed (None: all). Raises
        InputError for an invalid condition.
        """
        kept = np.ones(len(columns), bool) if there is None else there
        mask = np.ones(len(columns), bool)
        for condition in self._conditions:
            parsed = Condition.parse(condition, columns.column_names)
            values, places = distinct(columns[parsed.field])
            read = parsed.read(values)
            met = parsed.met(read)[places]
            mask &= met
            counts = np.bincount(places[kept], minlength=len(values)).tolist()
            self._read.setdefault(condition, NumbersRead(parsed)).add(values, read, counts)
            seen = [value for value, count in zip(values, counts, strict=True) if count]
            self._seen.setdefault(condition, ValuesSeen(parsed)).add(seen, bool((met & kept).any()))
        self._found = self._found or bool((mask & kept).any())
        return mask

    def notes(self) -> tuple[str, ...]:
        """One line per order condition with values that could not be compared, and reasons if no row met all conditions.

        Raises InputError if no value could be compared, or no row has a value.
        """
        for seen in self._seen.values():
            seen.check()
        left_out = [note for read in self._read.values() if (note := read.note())]
        if not self._found:
            unmet = [seen.why() for seen in self._seen.values() if not seen.met]
            some = "each condition is met by some images, but no image meets all of them"
            left_out += unmet or ([some] if len(self._seen) > 1 else [])
        return tuple(left_out)


def _near(field: str, fields: Sequence[str]) -> str:
    """Suggestion of a field with a similar name."""
    near = _nearest(re.sub(r"\W", "_", field), fields)
    question = f": did you mean {near!r}?" if near else ""
    return f", unknown field {field!r}{question}"


def _nearest(name: str, names: Sequence[str]) -> str | None:
    """The most similar name, ignoring case."""
    spelt = {one.casefold(): one for one in reversed(names)}
    near = difflib.get_close_matches(name.casefold(), spelt, 1)
    return spelt[near[0]] if near else None


def _apart(text: str) -> str:
    """Cure for two conditions in one; empty for a single one."""
    two = re.search(r"\band\b|[&<>]", text, re.IGNORECASE)
    return ": these are two conditions: give --where twice" if two else ""


def _with_point(text: str) -> str:
    """Cure for numbers such as ``94,14`` or ``EUR 94.14``; empty for other text, such as ``01/02/2024``."""
    found = re.findall(r"[+-]?\d[\d.,]*", re.sub(r"(?<=\d)\s(?=\d{3}(?!\d))", "", text))
    bare = found[0].rstrip(".,") if len(found) == 1 else ""
    number = bare.replace(",", ".") if bare.count(",") + bare.count(".") == 1 else bare
    return f" (write {number})" if number != text and _number(number) is not None else ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
