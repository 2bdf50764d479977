"""Parse dates and times: ISO 8601, also with a space instead of T, and EXIF dates with colons."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

WRITTEN = re.compile(
    r"([12]\d{3})(?:([-:])(\d\d)(?:\2(\d\d)"
    r"(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,6})\d*)?)?\s*(Z|[+-]\d\d(?::?\d\d)?)?)?)?)?",
    re.ASCII,
)
FIRST = (1, 1, 1, 0, 0, 0, 0)  # defaults of year, month, day, hour, minute, second, microsecond


@dataclass(frozen=True)
class Moment:
    """``parts``: number of given parts, from the year. ``moment``: start of the period, with offset from UTC if given."""

    parts: int
    moment: datetime

    @classmethod
    def parse(cls, text: str) -> Moment | None:
        """Parse a date; None if it is not a date."""
        found = WRITTEN.fullmatch(text.strip())
        if found is None:
            return None
        first, _, *others, fraction, offset = found.groups()
        parts = [int(part) for part in (first, *others) if part is not None]
        parts += [int(fraction.ljust(6, "0"))] if fraction else []
        try:
            year, month, day, hour, minute, second, micro = (*parts, *FIRST[len(parts) :])
            moment = datetime(year, month, day, hour, minute, second, micro, _zone(offset))
        except ValueError:  # a 13th month, or EXIF's 0000:00:00
            return None
        return cls(len(parts), moment)

    def beside(self, other: Moment) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """This and ``other`` for comparison, with the precision of ``other``: any time of a day equals that day.

        Offsets from UTC are used if both have one.
        """
        own = self.moment
        if own.tzinfo is not None and other.moment.tzinfo is not None:
            own = own.astimezone(other.moment.tzinfo)
        return _parts(own)[: other.parts], _parts(other.moment)[: other.parts]


def _parts(one: datetime) -> tuple[int, ...]:
    return one.year, one.month, one.day, one.hour, one.minute, one.second, one.microsecond


def _zone(offset: str | None) -> timezone | None:
    if offset is None:
        return None
    if offset == "Z":
        return UTC
    minutes = 60 * int(offset[1:3]) + int(offset[3:].lstrip(":") or 0)
    return timezone(timedelta(minutes=minutes if offset[0] == "+" else -minutes))
