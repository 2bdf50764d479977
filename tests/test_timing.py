"""How many times as fast: by a clock of the test's own, on a machine that is slowed while it is measured."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from sslfeat.system import timing


class Clock:
    """What takes time moves it on, as fast as the machine is at that moment."""

    def __init__(self, slowed: Callable[[float], float]) -> None:
        self.now, self._slowed = 0.0, slowed
        self.calls = 0

    def taking(self, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.calls += 1
            self.now += seconds * self._slowed(self.now)

        return call


def measured(
    monkeypatch: pytest.MonkeyPatch, slowed: Callable[[float], float], laps: int, seconds: float
) -> tuple[list[float], Clock]:
    clock = Clock(slowed)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return timing.times_as_fast([clock.taking(0.002), clock.taking(0.001), clock.taking(0.004)], laps, seconds), clock


def test_a_machine_that_is_slowed_halfway_or_now_and_then_decides_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(0)

    def slowed(now: float) -> float:
        return (1 + 4 * (now > 1)) * (8 if chance.random() < 0.1 else 1)

    for _ in range(20):
        speeds, _clock = measured(monkeypatch, slowed, 5, 4.0)
        assert speeds == pytest.approx([2, 0.5])


def test_it_is_bounded_by_seconds_and_takes_some_laps_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    _, clock = measured(monkeypatch, lambda now: 1, 5, 2.0)
    assert 2.0 <= clock.now < 2.1
    _, clock = measured(monkeypatch, lambda now: 1000, 5, 2.0)
    assert clock.calls == 3 * 6  # one of them to warm up
