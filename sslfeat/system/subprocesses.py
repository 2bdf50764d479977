"""Run programs in subprocesses, isolated from crashes, hangs and output."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sslfeat.errors import SslfeatError


def run_child(module: str, argument: Path, timeout: float, name: str, error: type[SslfeatError]) -> None:
    """Run ``python -P -m MODULE ARGUMENT`` (-P: do not import from the working folder).

    Raises ``error``, about ``name``, if it fails, crashes, or takes longer than ``timeout`` s. On failure, the message is its
    last line of output.
    """
    done = _ended([sys.executable, "-P", "-m", module, str(argument)], timeout, name, error)
    if done.returncode:
        raise error(_last(done) or f"{name} failed without a message")


def run_program(command: Sequence[str | Path], timeout: float, name: str, error: type[SslfeatError], folder: Path) -> None:
    """Run an external program in ``folder``. Raises ``error`` as ``run_child``, with ``name`` before the message."""
    done = _ended(command, timeout, name, error, folder)
    if done.returncode:
        raise error(f"{name} failed: {_last(done) or f'exit code {done.returncode}'}")


def _ended(
    command: Sequence[str | Path], timeout: float, name: str, error: type[SslfeatError], folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, cwd=folder)
    except subprocess.TimeoutExpired as late:
        raise error(f"{name} did not finish within {timeout:g} s") from late
    if done.returncode < 0:
        raise error(f"{name} crashed (signal {-done.returncode})")
    return done


def _last(done: subprocess.CompletedProcess[str]) -> str:
    return ((done.stderr.strip() or done.stdout.strip()).splitlines() or [""])[-1]
