"""Crash points: run a function and end its process at its n-th file operation, with the disk as it is at that moment.

    python tests/crash.py STOP_AT POWER_LOSS WATCHED_FOLDER MODULE:FUNCTION ARGS...

Counted is what Python code does to files and names below WATCHED_FOLDER. Operation STOP_AT (the first is 1) is not done,
of a write the first half is, and the process exits with 137 at once. STOP_AT 0 never stops. A function that comes to its
end has its operations counted on standard output.

POWER_LOSS is "no", or how much goes of what no fsync has made durable: "all", or "some", by a chance that is the same
every time. Durable are a file's content as of the file's last fsync, and a folder's names as of the folder's. What is lost may
be older than what is not; only a rename is lost whole or not at all, as on every file system with a journal.

Linux only: descriptors are followed through /proc.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.crash_disk import Disk


def forked(function: Callable[..., object], arguments: tuple[str, ...], disk: Disk | None = None) -> int:
    """Exit status of a child process that calls ``function``, under ``disk`` if given.

    As good as a new interpreter, since no thread has started in this one, and a hundred times cheaper.
    """
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - os counts names without making paths of them
    if threads > 1:
        raise RuntimeError(f"{threads} threads run already: a fork would lose all but one")
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        if disk:
            disk.watch()
        function(*arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main(stop_at: str, power_loss: str, watched: str, target: str, *arguments: str) -> None:
    """See the top of this file."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.crash_disk import POWER_LOSSES, Disk

    if power_loss not in POWER_LOSSES:
        raise SystemExit(f"POWER_LOSS {power_loss!r} is none of {', '.join(POWER_LOSSES)}")
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    disk = Disk(Path(watched), int(stop_at), power_loss)
    disk.watch()
    function(*arguments)
    print(f"{disk.operations} operations")


if __name__ == "__main__":
    main(*sys.argv[1:])
