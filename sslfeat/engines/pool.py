"""Parts on workers that come and go: who gets which, what is done again, and when to give up. Knows no cluster by name.

A worker has one part in hand and one waiting, so that it is never idle. What a lost worker had is given to others; a part
that was tried ATTEMPTS times in vain ends the run, as does any error that another attempt would meet again. A worker that
stands still is replaced, and a cluster that starts none is an error instead of a wait without end.
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
IN_HAND = 2  # parts a worker has
PULSE = 0.25  # seconds between two looks at everything
RECOVERY = 30.0  # seconds without new workers after some could not start


@dataclass(frozen=True)
class Outcome(Generic[W]):
    """A part's end on its worker: ``error`` is None if it is committed; ``lost`` says that the worker is gone, too."""

    worker: W
    number: int
    error: Exception | None = None
    lost: bool = False


class Cluster(Protocol[W]):
    """What the pool needs of a cluster; only ``wait`` takes time."""

    def room(self) -> int:
        """How many workers fit on it, those of the pool included."""
        ...

    def start(self) -> W:
        """Have a worker started; it may come up much later, or never."""
        ...

    def give(self, worker: W, number: int) -> None:
        """Have a worker embed part ``number`` after those it has."""
        ...

    def wait(self, seconds: float) -> list[Outcome[W]]:
        """What came to its end; waits that long for the first."""
        ...

    def news(self) -> dict[W, int | Exception]:
        """Images that workers have embedded in all, as far as some said so since the last call; or what they died of."""
        ...

    def stop(self, worker: W) -> None:
        """End a worker, whatever it is doing; nothing is heard of it any more."""
        ...

    def state(self) -> str:
        """What the cluster has, and what of it is free, in words."""
        ...


@dataclass(frozen=True)
class Patience:
    """Seconds without any worker that is up, and without another image from a worker that has parts."""

    start: float = 120.0
    image: float = 300.0


@dataclass
class _Worker:
    """Its parts in order; what it has embedded (None: it is not up yet), and when that last changed."""

    since: float
    parts: list[int] = field(default_factory=list)
    images: int | None = None


class Pool(Generic[W]):
    """Has every one of ``parts`` embedded by workers of a ``cluster``."""

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
        self._failed_starts = 0  # in a row
        self._hire_from = self._last_up = clock()

    def run(self, check: Callable[[], None] = lambda: None) -> Generator[int]:
        """Yield the number of each part as it is committed. ``check`` is called often, and may raise to stop.

        Raises FeaturesError when it gives up, and any SslfeatError that a worker raised.
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
        """Only to workers that are up: others may never be. One part each before two each, so that the last are spread."""
        for count in range(IN_HAND):
            for key, worker in self._workers.items():
                if self._open and len(worker.parts) == count and worker.images is not None:
                    if not worker.parts:
                        worker.since = self._clock()
                    worker.parts.append(self._open.popleft())
                    self._cluster.give(key, worker.parts[-1])

    def _committed(self, outcome: Outcome[W]) -> bool:
        """Whether a part is done; if not, it is to be done again."""
        worker = self._workers.get(outcome.worker)
        if worker is None or outcome.number not in worker.parts:  # another part said already that it is gone
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
        """Hear of the workers, replace those that stand still, and give up if none comes up."""
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
                self._failed_starts *= worker.images is not None  # one that comes up ends the row
                worker.images, worker.since = said, now
        for key, worker in list(self._workers.items()):
            if worker.images is not None and worker.parts and now - worker.since > self._patience.image:
                self._cluster.stop(key)
                self._lose(key, f"its worker embedded no image for {self._patience.image:g} s")
        if self._up():
            self._last_up = now
        elif now - self._last_up > self._patience.start:
            raise FeaturesError(
                f"no worker came up in {self._patience.start:g} s: {self._cluster.state()}. What is committed stays: "
                "wait until there is room, and run it again"
            )

    def _lose(self, key: W, cause: str) -> None:
        """Do without a worker. The part that it had in hand counts as tried, what waited behind it does not."""
        worker = self._workers.pop(key)
        self._open.extendleft(reversed(worker.parts[1:]))
        if worker.parts:
            self._again(worker.parts[0], cause)
        if worker.images is None:
            self._failed_starts += 1
            if self._failed_starts >= ATTEMPTS:
                self._hire_from = self._clock() + RECOVERY
                if not self._up():
                    raise FeaturesError(f"{ATTEMPTS} workers in a row could not start, at last: {cause}")

    def _again(self, number: int, cause: str) -> None:
        self._tried[number] += 1
        if self._tried[number] >= ATTEMPTS:
            raise FeaturesError(
                f"part {number} was tried {ATTEMPTS} times in vain, at last: {cause}. What is committed stays: "
                "mend that, and run it again"
            )
        self._open.appendleft(number)
