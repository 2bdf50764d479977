"""Scheduler for parts on unreliable workers: assignment, retries, and failure. Independent of the kind of cluster.

A worker has one current part and one queued part, so that it is never idle. Parts of a lost worker are reassigned. The run
fails if a part fails ATTEMPTS times, or on an error that cannot be retried. A worker without progress is replaced; it is an
error if the cluster starts no workers within a timeout.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from sslfeat.errors import FeaturesError, SslfeatError

W = TypeVar("W")
ATTEMPTS = 5
IN_HAND = 2  # parts per worker
PULSE = 0.25  # seconds between checks
RECOVERY = 30.0  # seconds without starting workers after failed starts


@dataclass(frozen=True)
class Outcome(Generic[W]):
    """Result of a part: ``error`` is None if it is committed; ``lost``: the worker is lost, too."""

    worker: W
    number: int
    error: Exception | None = None
    lost: bool = False


class Cluster(Protocol[W]):
    """Interface of a cluster; only ``wait`` blocks."""

    def room(self) -> int:
        """Maximum number of workers, including those of the pool."""
        ...

    def start(self) -> W:
        """Request a worker; it may start much later, or never."""
        ...

    def give(self, worker: W, number: int) -> None:
        """Assign part ``number`` to a worker, after its other parts."""
        ...

    def wait(self, seconds: float) -> list[Outcome[W]]:
        """Finished parts; waits up to ``seconds`` for the first."""
        ...

    def news(self) -> dict[W, int | Exception]:
        """Total number of images embedded by each worker that reported since the last call, or the error that ended it."""
        ...

    def stop(self, worker: W) -> None:
        """Stop a worker immediately; it does not report any more."""
        ...

    def state(self) -> str:
        """Total and free resources of the cluster, as text."""
        ...


@dataclass(frozen=True)
class Patience:
    """Timeouts in seconds: ``start`` for any worker to start, ``image`` for progress of a worker with parts."""

    start: float = 120.0
    image: float = 300.0


@dataclass
class _Worker:
    """Parts in order; number of embedded images (None: not started), and time of its last change."""

    since: float
    parts: list[int] = field(default_factory=list)
    images: int | None = None


class Pool(Generic[W]):
    """Embeds all ``parts`` with the workers of a ``cluster``."""

    def __init__(
        self,
        cluster: Cluster[W],
        parts: Iterable[int],
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster, self._patience, self._clock = cluster, patience or Patience(), clock
        self._open = deque(parts)
        self._workers: dict[W, _Worker] = {}
        self._tried: Counter[int] = Counter()
        self._failed_starts = 0  # consecutive
        self._hire_from = self._last_up = clock()

    def run(self, check: Callable[[], None] = lambda: None) -> Generator[int]:
        """Yield the number of each part when it is committed. ``check`` is called often, and may raise to stop.

        Raises FeaturesError on failure, and any SslfeatError raised by a worker.
        """
        try:
            while self._open or self._busy():
                check()
                self._hire()
                self._assign()
                for outcome in self._cluster.wait(PULSE):
                    if self._committed(outcome):
                        yield outcome.number
                self._watch()
        finally:
            for worker in self._workers:
                self._cluster.stop(worker)

    def _busy(self) -> int:
        return sum(bool(worker.parts) for worker in self._workers.values())

    def _up(self) -> bool:
        return any(worker.images is not None for worker in self._workers.values())

    def _hire(self) -> None:
        if self._clock() < self._hire_from:
            return
        wanted = min(self._cluster.room(), len(self._open) + self._busy())
        for _ in range(wanted - len(self._workers)):
            self._workers[self._cluster.start()] = _Worker(self._clock())

    def _assign(self) -> None:
        """Assign parts to started workers: one each before two each, so that the last parts are distributed evenly."""
        for count in range(IN_HAND):
            for key, worker in self._workers.items():
                if self._open and len(worker.parts) == count and worker.images is not None:
                    if not worker.parts:
                        worker.since = self._clock()
                    worker.parts.append(self._open.popleft())
                    self._cluster.give(key, worker.parts[-1])

    def _committed(self, outcome: Outcome[W]) -> bool:
        """Whether a part is done; otherwise it is queued again."""
        worker = self._workers.get(outcome.worker)
        if worker is None or outcome.number not in worker.parts:  # already known to be lost
            return False
        if outcome.error is None:
            worker.parts.remove(outcome.number)
            worker.since = self._clock()
            return True
        if isinstance(outcome.error, SslfeatError):
            raise outcome.error
        if outcome.lost:
            self._lose(outcome.worker, str(outcome.error))
        else:
            worker.parts.remove(outcome.number)
            self._again(outcome.number, repr(outcome.error))
        return False

    def _watch(self) -> None:
        """Read progress, replace workers without progress, and fail if none starts."""
        now = self._clock()
        for key, said in self._cluster.news().items():
            worker = self._workers.get(key)
            if isinstance(said, SslfeatError):
                raise said
            if worker is None:
                continue
            if isinstance(said, Exception):
                self._lose(key, str(said))
            elif said != worker.images:
                self._failed_starts *= worker.images is not None  # reset when a worker starts
                worker.images, worker.since = said, now
        for key, worker in list(self._workers.items()):
            if worker.images is not None and worker.parts and now - worker.since > self._patience.image:
                self._cluster.stop(key)
                self._lose(key, f"its worker embedded no image for {self._patience.image:g} s")
        if self._up():
            self._last_up = now
        elif now - self._last_up > self._patience.start:
            raise FeaturesError(
                f"no worker started within {self._patience.start:g} s: {self._cluster.state()}. Committed parts are kept: "
                "repeat the command when resources are free"
            )

    def _lose(self, key: W, cause: str) -> None:
        """Remove a worker. Its current part counts as an attempt, the queued part does not."""
        worker = self._workers.pop(key)
        self._open.extendleft(reversed(worker.parts[1:]))
        if worker.parts:
            self._again(worker.parts[0], cause)
        if worker.images is None:
            self._failed_starts += 1
            if self._failed_starts >= ATTEMPTS:
                self._hire_from = self._clock() + RECOVERY
                if not self._up():
                    raise FeaturesError(f"{ATTEMPTS} workers in a row could not start; last error: {cause}")

    def _again(self, number: int, cause: str) -> None:
        self._tried[number] += 1
        if self._tried[number] >= ATTEMPTS:
            raise FeaturesError(
                f"part {number} failed {ATTEMPTS} times; last error: {cause}. Committed parts are kept: "
                "fix the cause and repeat the command"
            )
        self._open.appendleft(number)
