"""What a library's native code writes to standard error by itself, before anything can be asked of it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def without_lines(pattern: bytes) -> Iterator[None]:
    """Drop the lines that match; all others are written once the block is left, however it is left.

    Where standard error is closed, or no temporary file can be written, nothing is dropped.
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
            with contextlib.suppress(OSError):  # nobody reads it any more
                for line in caught:
                    if not re.search(pattern, line):
                        os.write(2, line)


def _flush() -> None:
    with contextlib.suppress(AttributeError, ValueError, OSError):  # there is none, it is closed, or its disk is full
        sys.stderr.flush()
