"""Stopping on request: the first SIGINT or SIGTERM is noted and obeyed at a safe point, the second ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType


@dataclass
class Stop:
    """``signum`` is the signal that asked to stop, 0 while none has."""

    signum: int = 0


@contextlib.contextmanager
def deferred() -> Iterator[Stop]:
    """Collect the first signal in the yielded ``Stop``; the caller looks at it where stopping is safe."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may install handlers
        yield stop
        return

    def note(signum: int, frame: FrameType | None) -> None:
        if stop.signum:
            os._exit(128 + signum)
        stop.signum = signum

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
