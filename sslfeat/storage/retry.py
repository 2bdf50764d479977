"""Retries of operations on remote stores: client libraries give up within seconds, but servers restart in minutes.

A retried operation must be idempotent: read a range, write an object, list a prefix.
``SSLFEAT_RETRY_SECONDS`` (default: 180) limits the time of retries. A server that never responded is
probably a wrong address: if this is known, the limit is 15 seconds.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import re
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

from sslfeat.errors import RemoteError, SslfeatError, UsageError

RETRY_VARIABLE, RETRY_SECONDS = "SSLFEAT_RETRY_SECONDS", 180.0  # from the first failure on
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
CONTACT_SECONDS = 15.0  # seconds for the first response, unless the variable is set
QUIET = 2.0  # seconds of failures before a message
FINAL = (
    FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError, NotImplementedError, ImportError,
    ValueError, TypeError, LookupError, AttributeError, MemoryError, SslfeatError,
)  # fmt: skip
CREDENTIALS = re.compile("Credential|Token|Profile|Refresh|InvalidRegion")  # parts of exception names of client libraries
GIVE_UP: ContextVar[Callable[[], None]] = ContextVar("GIVE_UP", default=lambda: None)
"""Called before each repetition; it may raise to stop. A thread whose work can be called off sets its own."""
T = TypeVar("T")
log = logging.getLogger(__name__)


def is_final(error: Exception) -> bool:
    """Whether a retry is pointless: missing, forbidden or invalid requests, and programming errors."""
    if isinstance(error, FINAL) or CREDENTIALS.search(type(error).__name__):
        return True
    return isinstance(error, OSError) and error.errno == errno.EINVAL


def retrying(
    what: str,
    operation: Callable[[], T],
    final: Callable[[Exception], bool] = is_final,
    met: Callable[[], bool] = lambda: True,
) -> T:
    """Call ``operation``, retrying temporary failures; ``met``: whether the server has ever responded.

    Raises RemoteError naming ``what`` after ``SSLFEAT_RETRY_SECONDS``, the operation's own error at once
    if it is ``final`` or a RemoteError, and errors of GIVE_UP.
    """
    pause, warned, began = FIRST_PAUSE, False, 0.0
    retry_seconds(met())
    while True:
        try:
            return operation()
        except Exception as error:  # exception types depend on the store
            if isinstance(error, RemoteError) or final(error):
                raise
            now = time.monotonic()
            began = began or now
            limit = retry_seconds(met())
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            if now + pause > began + limit:
                raise RemoteError(
                    f"{what}: no success within {limit:g} s ({reason}): repeat the command when the location is reachable; "
                    f"{RETRY_VARIABLE} sets how long to try"
                ) from error
            if not warned and now - began > QUIET:
                warned = True
                log.warning("%s: trying again for up to %.0f s (%s)", what, began + limit - now, reason)
        GIVE_UP.get()()
        time.sleep(pause * random.uniform(0.8, 1.2))
        pause = min(2 * pause, LONGEST_PAUSE)


def retry_seconds(met: bool = True) -> float:
    """Time limit of retries, for a server that was ``met`` before or not. Raises UsageError if the environment variable is
    not a number."""
    text = os.environ.get(RETRY_VARIABLE, str(RETRY_SECONDS if met else CONTACT_SECONDS))
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{RETRY_VARIABLE} is {text!r}, but must be a number of seconds, such as 60") from None
