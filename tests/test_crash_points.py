"""The embedding job, ended at its file operations one by one, with and without a power loss, and run again.

A process of its own forks a child for every crash point (see ``tests/crash.py``). SSLFEAT_NIGHTLY takes every operation.
"""

from __future__ import annotations

import itertools
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.crash_battery import (
    EVERY,
    JOBS,
    NEXT,
    PART,
    Place,
    Point,
    base,
    digest,
    embed,
    features,
    naive,
    run_alone,
    run_battery,
)
from tests.crash_disk import POWER_LOSSES

__all__ = ["base"]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the harness follows descriptors through /proc")


@pytest.fixture(scope="module")
def points(base: Path) -> dict[str, list[Point]]:
    """The crash points of every job, two jobs at a time."""
    with ThreadPoolExecutor(2) as pool:
        every = [1 if job is naive else EVERY for job in NEXT]
        return dict(zip(JOBS, pool.map(run_battery, itertools.repeat(base), JOBS, every), strict=True))


@pytest.mark.parametrize("power_loss", POWER_LOSSES)
@pytest.mark.parametrize("job", ["embed", "overwrite", "update", "take_over"])
def test_crashed_anywhere_and_repeated_the_folder_is_the_same(points: dict[str, list[Point]], job: str, power_loss: str) -> None:
    crashes = [point for point in points[job] if point.power_loss == power_loss]
    assert len(crashes) >= 10
    assert not [point for point in crashes if point.fault]


def test_a_crash_takes_no_part_that_was_finished(points: dict[str, list[Point]]) -> None:
    assert max(point.kept for point in points["embed"]) >= 6 * PART
    assert not [point for point in points["embed"] if point.took_a_finished_part]


def test_the_battery_finds_out_a_naive_writer(points: dict[str, list[Point]]) -> None:
    bad = [point.power_loss for point in points["naive"] if point.fault or point.took_a_finished_part]
    found = {power_loss: bad.count(power_loss) for power_loss in POWER_LOSSES}
    each = len(points["naive"]) // len(POWER_LOSSES)
    print(f"naive: found out at {found} of {each} points each")
    assert min(found.values()) >= each // 2, found


def test_a_forked_crash_leaves_what_one_in_a_new_interpreter_leaves(base: Path, points: dict[str, list[Point]]) -> None:
    place = Place(base, embed)
    operations = run_alone(place, 0, "no")
    print(f"embed: {operations.strip()}")
    assert int(operations.split()[0]) >= max(point.number for point in points["embed"])
    for power_loss in POWER_LOSSES:
        point = [point for point in points["embed"] if point.power_loss == power_loss][-3]
        assert run_alone(place, point.number, power_loss) == "", "it came to its end"
        assert digest(features(place.world)) == point.left
