"""Graceful stop: after the first SIGINT or SIGTERM the process stops at a safe point, after the second immediately.

It also stops if no safe point is reached within a deadline. This is checked by a thread, because signal handlers of Python do
not run while the main thread is inside a library.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

DEADLINE = 10.0  # seconds: the same as container runtimes before SIGKILL
ONE = 0.2  # seconds within which signals count as one: 'timeout' sends its signal twice
WATCHED = (signal.SIGINT, signal.SIGTERM)
END = b"\0"  # not a signal number


@dataclass
class Stop:
    """``signum``: the signal received, 0 if none."""

    signum: int = 0


@contextlib.contextmanager
def deferred(deadline: float | None = None) -> Iterator[Stop]:
    """Record the first signal in the yielded ``Stop``; the caller checks it at safe points.

    If the block is not left within ``deadline`` seconds (None: DEADLINE), or at a second signal, the process exits with
    code 128 + signal. Committed data is safe, as after a crash.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may install handlers
        yield stop
        return

    def note(signum: int, frame: FrameType | None) -> None:
        stop.signum = stop.signum or signum

    with watched(deadline):
        before = {number: signal.signal(number, note) for number in WATCHED}
        try:
            yield stop
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def watched(deadline: float | None = None) -> Iterator[None]:
    """Exit at the second signal handled by Python, or ``deadline`` seconds after the first.

    Works in the main thread, for signals with a Python handler; others are handled by the system.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(read_end, DEADLINE if deadline is None else deadline), daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(write_end, END)
        watch.join()
        os.close(write_end)
        os.close(read_end)


def _watch(read_end: int, deadline: float) -> None:
    late: threading.Timer | None = None
    first = 0.0
    while (byte := os.read(read_end, 1)) != END:
        if byte[0] not in WATCHED:
            continue
        if late is None:
            first = time.monotonic()
            late = threading.Timer(deadline, os._exit, (128 + byte[0],))
            late.daemon = True
            late.start()
        elif time.monotonic() - first > ONE:
            os._exit(128 + byte[0])
    if late is not None:
        late.cancel()
