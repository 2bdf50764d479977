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
    """Drop the lines that match; all others are written once the block is left, however it is left."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    with tempfile.TemporaryFile() as caught:
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            with contextlib.suppress(OSError):  # nobody reads it any more
                for line in caught:
                    if not re.search(pattern, line):
                        os.write(2, line)
