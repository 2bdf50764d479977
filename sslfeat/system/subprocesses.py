"""Programs, run in processes of their own: what crashes, hangs or chatters there does so there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sslfeat.errors import SslfeatError


def run_child(module: str, argument: Path, timeout: float, name: str, error: type[SslfeatError]) -> None:
    """``python -P -m MODULE ARGUMENT``: because of -P nothing is imported from the working folder.

    Raises ``error``, about ``name``, if it fails, crashes, or takes over ``timeout`` s. What a child that fails prints last
    is the message.
    """
    done = _ended([sys.executable, "-P", "-m", module, str(argument)], timeout, name, error)
    if done.returncode:
        raise error(_last(done) or f"{name} failed without a word")


def run_program(command: Sequence[str | Path], timeout: float, name: str, error: type[SslfeatError], folder: Path) -> None:
    """Somebody else's program, in ``folder``. Raises ``error`` as ``run_child`` does, with ``name`` before the message."""
    done = _ended(command, timeout, name, error, folder)
    if done.returncode:
        raise error(f"{name} failed: {_last(done) or f'exit code {done.returncode}'}")


def _ended(
    command: Sequence[str | Path], timeout: float, name: str, error: type[SslfeatError], folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, cwd=folder)
    except subprocess.TimeoutExpired as late:
        raise error(f"{name} did not come to an end in {timeout:g} s") from late
    if done.returncode < 0:
        raise error(f"{name} crashed (signal {-done.returncode})")
    return done


def _last(done: subprocess.CompletedProcess[str]) -> str:
    return ((done.stderr.strip() or done.stdout.strip()).splitlines() or [""])[-1]
