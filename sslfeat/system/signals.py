"""Stopping on request: the first SIGINT or SIGTERM is noted and obeyed at a safe point, the second ends at once.

So does the first, where no safe point is reached within a deadline. Python's own handlers run between two of its
instructions, which a main thread that is inside a library may never come back to; the watching here is a thread's.
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

DEADLINE = 10.0  # seconds: as long as container runtimes wait before they kill
ONE = 0.2  # seconds within which signals are one: 'timeout' sends its own twice
WATCHED = (signal.SIGINT, signal.SIGTERM)
END = b"\0"  # no signal's number


@dataclass
class Stop:
    """``signum`` is the signal that asked to stop, 0 while none has."""

    signum: int = 0


@contextlib.contextmanager
def deferred(deadline: float | None = None) -> Iterator[Stop]:
    """Collect the first signal in the yielded ``Stop``; the caller looks at it where stopping is safe.

    If the block has not been left ``deadline`` seconds later (None: DEADLINE), or at a second signal, the process ends,
    with exit code 128 + signal: what was committed is safe, as from any crash.
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
    """End the process at the second signal that Python handles, or ``deadline`` seconds after the first.

    Only in the main thread, and only signals that have a handler in Python: the system itself sees to the others.
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
