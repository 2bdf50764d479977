"""Value ranges of a method's options, declared by their type: ``min_area: Area = 0.5``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_type_hints

from sslfeat.errors import UsageError


@dataclass(frozen=True)
class Range:
    """From ``least`` to ``most``; ``above`` and ``below`` exclude the end."""

    least: float
    most: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        low = self.least < value if self.above else self.least <= value
        return low and (value < self.most if self.below else value <= self.most) and math.isfinite(value)

    def __str__(self) -> str:
        low = f"more than {self.least:g}" if self.above else f"at least {self.least:g}"
        return low if self.most == math.inf else f"{low} and {'less than' if self.below else 'at most'} {self.most:g}"


Area = Annotated[float, Range(0, 1, above=True)]
Share = Annotated[float, Range(0, 1)]
Part = Annotated[float, Range(0, 1, above=True, below=True)]
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Count = Annotated[int, Range(1)]
Several = Annotated[int, Range(2)]
CountOrZero = Annotated[int, Range(0)]


def ranges(config: type) -> dict[str, Range]:
    """Ranges of the options of a ``Config`` that have one."""
    hints = get_type_hints(config, include_extras=True)
    return {name: part for name, hint in hints.items() for part in get_args(hint)[1:] if isinstance(part, Range)}


def check_ranges(config: Any) -> None:
    """Raise UsageError for the first option of ``config`` that is out of range, with its value and the range."""
    for name, allowed in ranges(type(config)).items():
        if getattr(config, name) not in allowed:
            raise UsageError(f"option {name} is {getattr(config, name):g}: it must be {allowed}")
