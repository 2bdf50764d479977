"""The command line in the process of the tests: what it prints, without the seconds that a new process takes."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from sslfeat.cli import app


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it wrote to each stream."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str | Path) -> Ended:
    """Run ``sslfeat ARGUMENTS``."""
    printed, noted, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["sslfeat", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(noted), pytest.raises(SystemExit) as ended:
            app.main()
    finally:
        sys.argv = before
    return Ended(int(ended.value.code or 0), printed.getvalue(), noted.getvalue())
