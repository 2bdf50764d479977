"""A module of ours, run in a process of its own: what crashes, hangs or chatters there does so there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sslfeat.errors import SslfeatError


def run_child(module: str, argument: Path, timeout: float, name: str, error: type[SslfeatError]) -> None:
    """``python -P -m MODULE ARGUMENT``: because of -P nothing is imported from the working folder.

    Raises ``error``, about ``name``, if it fails, crashes, or takes over ``timeout`` s. What a child that fails prints last
    is the message.
    """
    command = [sys.executable, "-P", "-m", module, str(argument)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as late:
        raise error(f"{name} did not come to an end in {timeout:g} s") from late
    if done.returncode < 0:
        raise error(f"{name} crashed (signal {-done.returncode})")
    if done.returncode:
        raise error((done.stderr.strip().splitlines() or [f"{name} failed without a word"])[-1])
