"""Which rows are searched: conditions on the columns of an index."""

from __future__ import annotations

import difflib
import fnmatch
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sslfeat.errors import InputError
from sslfeat.system.plurals import counted

CONDITION = re.compile(r"\s*([^=~<>!]*[^=~<>!\s])(\s*)(!?[=~]|[<>]=?)(.*)", re.DOTALL)
ORDER = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True)
class Condition:
    """``field`` is ``text``, or matches it as a glob, or as a number is in ``order`` with it.

    ``negated``: is not, as no missing value is anything.
    """

    field: str
    negated: bool
    glob: bool
    text: str
    order: str = ""

    @classmethod
    def parse(cls, condition: str, fields: Sequence[str]) -> Condition:
        """FIELD=TEXT, FIELD~GLOB, either with ``!`` for not, or FIELD<NUMBER, <=, > or >=, FIELD one of ``fields``.

        Spaces around the operator are none of the text. Raises InputError, which names the field that was meant.
        """
        parsed = CONDITION.fullmatch(condition)
        if parsed is None or parsed[1] not in fields:
            near = "" if parsed is None else _near(parsed[1], fields)
            raise InputError(
                f"--where {condition!r} cannot be read{near}: FIELD=TEXT or FIELD~GLOB, != or !~ for not, "
                f"FIELD<NUMBER, <=, > or >=, FIELD one of {', '.join(fields)}"
            )
        field, spaces, sign, text = parsed.groups()
        text = text.strip() if spaces else text
        if sign in ORDER and _number(text) is None:
            raise InputError(f"--where {condition!r}: {text!r} is no number{_with_point(text)}")
        return cls(field, sign.startswith("!"), sign.endswith("~"), text, sign if sign in ORDER else "")

    def met(self, values: Iterable[str | None]) -> npt.NDArray[np.bool_]:
        """Which values of the field meet it, (N,)."""
        test = self._test()
        found = [value is not None and test(str(value)) for value in values]
        mask: npt.NDArray[np.bool_] = np.array(found, bool) != self.negated
        return mask

    def _test(self) -> Callable[[str], bool]:
        if self.order:
            limit, compare = float(self.text), ORDER[self.order]
            return lambda value: (number := _number(value)) is not None and bool(compare(number, limit))
        if self.glob:
            match = re.compile(fnmatch.translate(self.text)).match
            return lambda value: match(value) is not None
        return lambda value: value == self.text


@dataclass
class NumbersRead:
    """How many values of a field an order condition could compare, as they come."""

    condition: Condition
    numbers: int = 0
    others: int = 0
    example: str = ""  # the first that is no number

    def add(self, values: Iterable[str | None]) -> None:
        """Count these; None is no value."""
        for value in values if self.condition.order else ():
            if value is None or _number(str(value)) is not None:
                self.numbers += value is not None
            else:
                self.example = self.example or str(value)
                self.others += 1

    def note(self) -> str:
        """What to say of values that are no numbers, if anything. Raises InputError if none is one."""
        field, order = self.condition.field, f"{self.condition.field}{self.condition.order}{self.condition.text}"
        if self.others and not self.numbers:
            raise InputError(
                f"--where {order!r}: no value of {field} is a number, such as {self.example!r}{_with_point(self.example)}: write "
                "plain numbers into the list, then bring features and index up to date ('embed --update', 'index --sync')"
            )
        if not self.others:
            return ""
        values = counted(self.others, "value")
        return f"--where {order!r}: {values} of {field} left out for being no number, such as {self.example!r}"


def as_conditions(where: str | Sequence[str]) -> Sequence[str]:
    """The conditions; a string is one of them."""
    return [where] if isinstance(where, str) else where


class Filter:
    """Conditions on rows that come part by part; ``notes`` tells afterwards of values that no condition could compare."""

    def __init__(self, conditions: str | Sequence[str]) -> None:
        self._conditions = as_conditions(conditions)
        self._read: dict[str, NumbersRead] = {}

    def met(self, columns: pa.Table) -> npt.NDArray[np.bool_]:
        """Mask (N,) of the rows that meet all conditions, whose fields are columns.

        Columns that were carried along from a list or a container are among them. A row without a label meets ``label!=...``,
        one whose value is no number meets no order. Raises InputError for a condition that cannot be read.
        """
        mask = np.ones(len(columns), bool)
        for condition in self._conditions:
            parsed = Condition.parse(condition, columns.column_names)
            values = columns[parsed.field].to_pylist()
            self._read.setdefault(condition, NumbersRead(parsed)).add(values)
            mask &= parsed.met(values)
        return mask

    def notes(self) -> tuple[str, ...]:
        """A line for each order condition that some values could not be compared by. Raises InputError if none could."""
        return tuple(note for read in self._read.values() if (note := read.note()))


def _near(field: str, fields: Sequence[str]) -> str:
    """The question whether a field of nearly this name is meant."""
    spelt = {name.casefold(): name for name in reversed(fields)}
    near = difflib.get_close_matches(re.sub(r"\W", "_", field).casefold(), spelt, 1)
    question = f": did you mean {spelt[near[0]]!r}?" if near else ""
    return f", there is no field {field!r}{question}"


def _with_point(text: str) -> str:
    """What to write in place of ``94,14`` or ``EUR 94.14``."""
    bare = re.sub(r"[^\d.,+-]", "", text)
    number = bare.replace(",", ".") if bare.count(",") + bare.count(".") == 1 else bare
    return f" (write {number})" if number != text and _number(number) is not None else ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
