"""Exit codes, and how errors become them: 0 good, 1 error, 2 usage, 3 finished with bad inputs listed, 128 + signal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sslfeat.errors import MissingExtraError

ERROR, USAGE, BAD_INPUTS = 1, 2, 3


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around imports that the extra ``extra`` brings: a missing package becomes an error that names the cure."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "sslfeat":
            raise
        raise MissingExtraError(extra, str(error.name)) from error
