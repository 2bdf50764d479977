"""Parts on workers that die, stand still, or never come up: a cluster that is made up, and its clock with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from sslfeat.engines.pool import ATTEMPTS, IN_HAND, Outcome, Patience, Pool
from sslfeat.errors import EncoderFileError, FeaturesError, InterruptedRun

Fault = Callable[["MadeUp", str, int], Exception | str | None]  # (cluster, worker, part): an error, "dies", "stands", or nothing


@dataclass
class MadeUp:
    """Workers that need a second a part. ``slots`` is what it says it has room for, of which ``free`` come up."""

    slots: int = 2
    free: int = 2
    fault: Fault = lambda cluster, worker, part: None
    at_start: Callable[[str], Exception | None] = lambda worker: None
    now: float = 0.0
    started: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    queues: dict[str, list[int]] = field(default_factory=dict)
    embedded: dict[str, int] = field(default_factory=dict)
    given: list[tuple[str, int]] = field(default_factory=list)
    most: int = 0

    def room(self) -> int:
        return self.slots

    def start(self) -> str:
        self.started.append(f"w{len(self.started)}")
        self.queues[self.started[-1]] = []
        return self.started[-1]

    def up(self) -> list[str]:
        return [worker for worker in self.started if worker in self.queues][: self.free]

    def give(self, worker: str, number: int) -> None:
        assert worker in self.up()
        self.given.append((worker, number))
        self.queues[worker].append(number)
        self.most = max(self.most, len(self.queues[worker]))

    def wait(self, seconds: float) -> list[Outcome[str]]:
        self.now += 1
        found: list[Outcome[str]] = []
        for worker in self.up():
            if not self.queues[worker]:
                continue
            part = self.queues[worker][0]
            fault = self.fault(self, worker, part)
            if fault == "stands":
                continue
            if fault == "dies":
                lost = self.queues.pop(worker)  # what waited is heard of first
                found += [Outcome(worker, number, RuntimeError("gone"), lost=True) for number in reversed(lost)]
                continue
            self.queues[worker].pop(0)
            if isinstance(fault, Exception):
                found.append(Outcome(worker, part, fault))
            else:
                self.embedded[worker] = self.embedded.get(worker, 0) + 1
                found.append(Outcome(worker, part))
        return found

    def news(self) -> dict[str, int | Exception]:
        said: dict[str, int | Exception] = {}
        for worker in self.up():
            died = self.at_start(worker)
            if died is not None:
                del self.queues[worker]
            said[worker] = died or self.embedded.get(worker, 0)
        return said

    def stop(self, worker: str) -> None:
        self.stopped.append(worker)
        self.queues.pop(worker, None)

    def state(self) -> str:
        return "0 of 2 CPU are free"


def run(cluster: MadeUp, parts: int, patience: Patience | None = None) -> list[int]:
    return list(Pool(cluster, range(parts), patience or Patience(50, 20), lambda: cluster.now).run())


def once(*faults: tuple[int, Exception | str]) -> Fault:
    """Each at the first attempt at its part."""
    left = dict(faults)
    return lambda cluster, worker, part: left.pop(part, None)


def test_every_part_is_done_once_and_workers_are_kept_busy() -> None:
    cluster = MadeUp(slots=3, free=3)
    assert sorted(run(cluster, 20)) == list(range(20))
    assert sorted(part for _, part in cluster.given) == list(range(20))
    assert cluster.most == IN_HAND
    assert len(cluster.started) == 3 == len(cluster.stopped)
    assert cluster.now <= 9  # 20 parts by three, one a second, and the time to come up


def test_no_more_workers_are_started_than_parts_are_left_and_none_for_none() -> None:
    cluster = MadeUp(slots=50, free=50)
    assert sorted(run(cluster, 3)) == [0, 1, 2]
    assert len(cluster.started) == 3
    assert {worker for worker, _ in cluster.given} == {"w0", "w1", "w2"}
    assert run(MadeUp(), 0) == []


def test_what_a_lost_worker_had_is_done_by_others() -> None:
    cluster = MadeUp(fault=once((0, "dies"), (5, "dies"), (9, "dies")))
    assert sorted(run(cluster, 12)) == list(range(12))
    assert len(cluster.started) == 5


def test_workers_that_never_come_up_hold_nothing_back() -> None:
    cluster = MadeUp(slots=8, free=2)  # somebody else has the rest
    assert sorted(run(cluster, 10)) == list(range(10))


def test_a_machine_that_joins_is_used_and_one_that_leaves_is_not_waited_for() -> None:
    def grow(cluster: MadeUp, worker: str, part: int) -> None:
        cluster.slots = cluster.free = 4 if part >= 4 else 1

    cluster = MadeUp(slots=1, free=1, fault=grow)
    assert sorted(run(cluster, 20)) == list(range(20))
    assert len(cluster.started) == 4


def test_an_error_is_tried_again_on_the_part_and_only_so_often() -> None:
    assert sorted(run(MadeUp(fault=once((3, OSError("the disk is away")))), 6)) == list(range(6))
    cluster = MadeUp(fault=lambda cluster, worker, part: OSError("the disk is full") if part == 3 else None)
    with pytest.raises(FeaturesError, match=f"part 3 failed {ATTEMPTS} times; last error: .*the disk is full"):
        run(cluster, 6)
    assert [part for _, part in cluster.given].count(3) == ATTEMPTS
    assert set(cluster.started) == set(cluster.stopped)


def test_a_part_that_kills_its_workers_ends_the_run_but_not_for_what_waited_behind_it() -> None:
    cluster = MadeUp(slots=1, free=1, fault=lambda cluster, worker, part: "dies" if part == 2 else None)
    with pytest.raises(FeaturesError, match="part 2 failed"):
        run(cluster, 6)


@pytest.mark.parametrize("error", [EncoderFileError("another encoder"), FeaturesError("other versions")])
def test_errors_that_would_come_again_are_raised_at_once(error: Exception) -> None:
    cluster = MadeUp(fault=once((1, error)))
    with pytest.raises(type(error), match=str(error)):
        run(cluster, 6)
    cluster = MadeUp(at_start=lambda worker: error)
    with pytest.raises(type(error), match=str(error)):
        run(cluster, 6)
    assert set(cluster.started) == set(cluster.stopped)


def test_a_worker_that_stands_still_is_replaced() -> None:
    cluster = MadeUp(fault=lambda cluster, worker, part: "stands" if worker == "w0" else None)
    assert sorted(run(cluster, 30)) == list(range(30))
    assert cluster.stopped[0] == "w0"
    assert cluster.now >= 20
    slow = MadeUp(slots=1, free=1)
    slow.fault = lambda cluster, worker, part: None if cluster.now % 15 == 0 else "stands"  # slow, but within the patience
    assert run(slow, 4) == [0, 1, 2, 3]
    assert len(slow.started) == 1


def test_a_cluster_that_starts_nothing_is_named_instead_of_waited_for() -> None:
    cluster = MadeUp(slots=2, free=0)
    with pytest.raises(FeaturesError, match=r"no worker started within 50 s: 0 of 2 CPU are free"):
        run(cluster, 4)
    assert 50 <= cluster.now <= 53
    gone = MadeUp(slots=0)
    with pytest.raises(FeaturesError, match="no worker started"):
        run(gone, 4)
    assert gone.started == []


def test_workers_that_cannot_start_end_the_run_unless_others_work() -> None:
    cluster = MadeUp(at_start=lambda worker: RuntimeError("no module named sslfeat"))
    with pytest.raises(FeaturesError, match=f"{ATTEMPTS} workers in a row could not start; last error: no module named sslfeat"):
        run(cluster, 4)
    mixed = MadeUp(slots=3, free=3, at_start=lambda worker: RuntimeError("no such library") if worker != "w1" else None)
    assert sorted(run(mixed, 40)) == list(range(40))
    assert len(mixed.started) < 15  # a machine on which none starts is given rest


def test_an_interrupted_run_stops_its_workers() -> None:
    cluster = MadeUp()

    def check() -> None:
        if cluster.now > 3:
            raise InterruptedRun(2, "interrupted")

    with pytest.raises(InterruptedRun):
        list(Pool(cluster, range(100), clock=lambda: cluster.now).run(check))
    assert set(cluster.stopped) == set(cluster.started)
