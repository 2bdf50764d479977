"""Operations on a remote store, repeated until they succeed: libraries give up within seconds, and servers restart in minutes.

An operation that is repeated must be whole and idempotent: read this range, write this object, list this prefix.
``SSLFEAT_RETRY_SECONDS`` (default: 180) is how long it is repeated. A place that never answered is
more likely a wrong address than an outage: where that can be told, 15 seconds are enough.
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
CONTACT_SECONDS = 15.0  # as long for the first answer, unless the variable says otherwise
QUIET = 2.0  # seconds of failing that are not spoken of
FINAL = (
    FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError, NotImplementedError, ImportError,
    ValueError, TypeError, LookupError, AttributeError, MemoryError, SslfeatError,
)  # fmt: skip
CREDENTIALS = re.compile("Credential|Token|Profile|Refresh|InvalidRegion")  # in the names of errors of clients
GIVE_UP: ContextVar[Callable[[], None]] = ContextVar("GIVE_UP", default=lambda: None)
"""Called before each repetition; it may raise to stop. A thread whose work can be called off sets its own."""
T = TypeVar("T")
log = logging.getLogger(__name__)


def is_final(error: Exception) -> bool:
    """Whether repeating changes nothing: what is missing, forbidden or makes no sense, and a program's own faults."""
    if isinstance(error, FINAL) or CREDENTIALS.search(type(error).__name__):
        return True
    return isinstance(error, OSError) and error.errno == errno.EINVAL


def retrying(
    what: str,
    operation: Callable[[], T],
    final: Callable[[Exception], bool] = is_final,
    met: Callable[[], bool] = lambda: True,
) -> T:
    """What ``operation`` returns, repeated while it fails for a reason that may pass; ``met``: whether the place ever answered.

    Raises RemoteError naming ``what`` when that takes longer than ``SSLFEAT_RETRY_SECONDS``, the operation's own error at once
    if it is ``final`` or a RemoteError, and what GIVE_UP raises.
    """
    pause, warned, began = FIRST_PAUSE, False, 0.0
    retry_seconds(met())
    while True:
        try:
            return operation()
        except Exception as error:  # each store raises errors of its own
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
    """How long to go on with what fails, at a place that was ``met`` before or not. Raises UsageError if the environment holds
    no number."""
    text = os.environ.get(RETRY_VARIABLE, str(RETRY_SECONDS if met else CONTACT_SECONDS))
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{RETRY_VARIABLE} is {text!r}, but must be a number of seconds, such as 60") from None
