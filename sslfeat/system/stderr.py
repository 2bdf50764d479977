"""Filter messages that native code of libraries writes to standard error."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def without_lines(pattern: bytes) -> Iterator[None]:
    """Drop lines that match; all others are written when the block is left, also by an exception.

    If standard error is closed, or no temporary file can be written, nothing is dropped.
    """
    with contextlib.ExitStack() as stack:
        try:
            caught = stack.enter_context(tempfile.TemporaryFile())
            kept = os.dup(2)
        except OSError:
            caught = None
        if caught is None:
            yield
            return
        _flush()
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            _flush()
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            with contextlib.suppress(OSError):  # closed pipe
                for line in caught:
                    if not re.search(pattern, line):
                        os.write(2, line)


def _flush() -> None:
    with contextlib.suppress(AttributeError, ValueError, OSError):  # missing, closed, or disk full
        sys.stderr.flush()
