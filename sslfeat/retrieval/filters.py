"""Which rows may be found: conditions such as ``label=cat`` and ``path~*/2024/*``."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sslfeat.errors import InputError

FIELDS = ("path", "label", "sha256")
CONDITION = re.compile(r"(\w+)(!?[=~])(.*)", re.DOTALL)


def allowed(columns: pa.Table, conditions: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Mask (N,) of the rows that meet all ``conditions``: FIELD=TEXT, FIELD~GLOB, or either with ``!`` for not.

    A row without a label meets ``label!=...``. Raises InputError for a condition that cannot be read.
    """
    mask = np.ones(len(columns), bool)
    for condition in conditions:
        parsed = CONDITION.fullmatch(condition)
        if parsed is None or parsed[1] not in FIELDS:
            raise InputError(
                f"--where {condition!r} cannot be read: FIELD=TEXT or FIELD~GLOB, != or !~ for not, FIELD one of "
                f"{', '.join(FIELDS)}"
            )
        field, operator, text = parsed.groups()
        values = columns[field].to_pylist()
        match = re.compile(fnmatch.translate(text)).match if operator.endswith("~") else None
        met = [value is not None and (bool(match(value)) if match else value == text) for value in values]
        mask &= np.array(met, bool) != operator.startswith("!")
    return mask
