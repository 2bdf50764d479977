"""Conditions on the columns of an index."""

from __future__ import annotations

import difflib
import fnmatch
import itertools
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
    """``field`` is ``text``, or matches it as a glob, or as a number or a date is in ``order`` with it.

    ``negated``: is not, as no missing value is anything.
    """

    field: str
    negated: bool
    glob: bool
    text: str
    order: str = ""

    @classmethod
    def parse(cls, condition: str, fields: Sequence[str]) -> Condition:
        """FIELD=TEXT, FIELD~GLOB, either with ``!`` for not, or FIELD<NUMBER or FIELD<DATE, <=, > or >=, FIELD one of ``fields``.

        Spaces around the operator are none of the text. Raises InputError, which names the field that was meant.
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
        """Whether each value of the field is the text, matches it or is in order with it.

        None for no value, and for one that is in no order with it.
        """
        test, values = self._test(), list(values)
        known = {value: None if value is None else test(str(value)) for value in set(values)}
        return [known[value] for value in values]

    def met(self, read: Iterable[bool | None]) -> npt.NDArray[np.bool_]:
        """Which values meet it, (N,), of those that were ``read``."""
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
        """What values must be to be in order with it."""
        return "date" if _number(self.text) is None else "number"

    def __str__(self) -> str:
        return f"--where '{self.field}{'!' * self.negated}{self.order or '=~'[self.glob]}{self.text}'"


@dataclass
class NumbersRead:
    """How many values of a field an order condition could compare, as they come."""

    condition: Condition
    numbers: int = 0
    others: int = 0
    example: str = ""  # the first that could not be

    def add(self, values: Iterable[Any], read: Iterable[bool | None]) -> None:
        """Count these, None being no value, as the condition ``read`` them."""
        for value, one in zip(values, read, strict=True):
            if one is not None:
                self.numbers += 1
            elif value is not None:
                self.example = self.example or str(value)
                self.others += 1

    def note(self) -> str:
        """What to say of values that are no numbers or dates, if anything. Raises InputError if none is one."""
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
    """What a field's values are, as they come, to say why a condition found nothing."""

    condition: Condition
    rows: int = 0
    met: bool = False
    values: set[str] = field(default_factory=set)  # no more once they are MANY

    def add(self, values: Sequence[Any], met: bool) -> None:
        """See these; ``met``: whether one of them meets the condition."""
        self.rows += len(values)
        self.met = self.met or met
        if len(self.values) < MANY:
            self.values.update(str(value) for value in values if value is not None)

    def check(self) -> None:
        """Raise InputError if no row has a value of the field, so that none could ever be found."""
        if self.rows and not self.values and not self.condition.negated:
            cure = "; labels come from class folders or from a list" if self.condition.field == "label" else ""
            raise InputError(f"{self.condition}: no image has the field {self.condition.field}{cure}")

    def why(self) -> str:
        """Why it is met by none."""
        name, text = self.condition.field, self.condition.text
        if self.condition.negated:
            return f"{self.condition}: all images have this value"
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


def as_conditions(where: str | Sequence[str]) -> Sequence[str]:
    """The conditions; a string is one of them."""
    return [where] if isinstance(where, str) else where


class Filter:
    """Conditions on rows that come part by part; ``notes`` tells afterwards of values that no condition could compare, and
    why nothing was found."""

    def __init__(self, conditions: str | Sequence[str]) -> None:
        self._conditions = as_conditions(conditions)
        self._read: dict[str, NumbersRead] = {}
        self._seen: dict[str, ValuesSeen] = {}
        self._found = False

    def met(self, columns: pa.Table, there: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.bool_]:
        """Mask (N,) of the rows that meet all conditions, whose fields are columns.

        Columns that were carried along from a list or a container are among them. A row without a label meets ``label!=...``,
        one whose value is no number meets no order. ``there`` (N,) are the rows that are not removed (None: all). Raises
        InputError for a condition that cannot be read.
        """
        mask = np.ones(len(columns), bool)
        for condition in self._conditions:
            parsed = Condition.parse(condition, columns.column_names)
            values = columns[parsed.field].to_pylist()
            read = parsed.read(values)
            met = parsed.met(read)
            mask &= met
            if there is not None:
                values, read = (list(itertools.compress(all_rows, there.tolist())) for all_rows in (values, read))
                met = met & there
            self._read.setdefault(condition, NumbersRead(parsed)).add(values, read)
            self._seen.setdefault(condition, ValuesSeen(parsed)).add(values, bool(met.any()))
        self._found = self._found or bool((mask if there is None else mask & there).any())
        return mask

    def notes(self) -> tuple[str, ...]:
        """A line for each order condition that some values could not be compared by, and if no row met all, why.

        Raises InputError if none could, or no row has a value at all.
        """
        for seen in self._seen.values():
            seen.check()
        left_out = [note for read in self._read.values() if (note := read.note())]
        if not self._found:
            unmet = [seen.why() for seen in self._seen.values() if not seen.met]
            some = "each condition is met by some images, and all of them by none"
            left_out += unmet or ([some] if len(self._seen) > 1 else [])
        return tuple(left_out)


def _near(field: str, fields: Sequence[str]) -> str:
    """The question whether a field of nearly this name is meant."""
    near = _nearest(re.sub(r"\W", "_", field), fields)
    question = f": did you mean {near!r}?" if near else ""
    return f", unknown field {field!r}{question}"


def _nearest(name: str, names: Sequence[str]) -> str | None:
    """The one that is written much the same, capitals aside."""
    spelt = {one.casefold(): one for one in reversed(names)}
    near = difflib.get_close_matches(name.casefold(), spelt, 1)
    return spelt[near[0]] if near else None


def _apart(text: str) -> str:
    """What to do about two conditions in one; empty where there is one."""
    two = re.search(r"\band\b|[&<>]", text, re.IGNORECASE)
    return ": these are two conditions: give --where twice" if two else ""


def _with_point(text: str) -> str:
    """What to write in place of ``94,14`` or ``EUR 94.14``; empty where that is not plain, as of ``01/02/2024``."""
    found = re.findall(r"[+-]?\d[\d.,]*", re.sub(r"(?<=\d)\s(?=\d{3}(?!\d))", "", text))
    bare = found[0].rstrip(".,") if len(found) == 1 else ""
    number = bare.replace(",", ".") if bare.count(",") + bare.count(".") == 1 else bare
    return f" (write {number})" if number != text and _number(number) is not None else ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
