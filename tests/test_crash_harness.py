"""The harness of the crash tests: what its modeled disk keeps after a power loss, and files that it cannot follow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from sslfeat.storage import atomic
from tests.conftest import contents
from tests.crash_battery import NO_THREADS, ROOT, Place, base, run_alone

__all__ = ["base"]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the harness follows descriptors through /proc")


def lesson(encoder: str, image_folder: str, out: str, told: str) -> None:
    """Twelve operations on which the model of a power loss is checked."""
    folder = Path(out)
    folder.mkdir()  # 1
    for name in ("synced", "named"):
        with (folder / name).open("wb") as file:  # 2, 5
            file.write(b"12345678")
            file.flush()  # 3, 6
            if name == "synced":
                os.fsync(file.fileno())  # 4
    for path in (folder, folder.parent):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)  # 7, 8
        os.close(descriptor)
    (folder / "synced").rename(folder / "renamed")  # 9
    (folder / "named").unlink()  # 10
    (folder / "renamed").write_bytes(b"new")  # 11, 12


def go_round(encoder: str, image_folder: str, out: str, told: str) -> None:
    """A file that Python code does not make, of the same inode as one that was deleted, on most file systems."""
    folder = Path(out)
    folder.mkdir()
    (folder / "deleted").write_bytes(b"old")
    (folder / "deleted").unlink()
    with pa.OSFile(str(folder / "made"), "wb") as file:
        file.write(b"new")
    atomic.sync_folder(folder)


def test_a_file_that_goes_round_the_harness_is_an_error(base: Path) -> None:
    place = Place(base, go_round)
    place.clear()
    command = (sys.executable, "tests/crash.py", "0", "no", place.world, "tests.test_crash_harness:go_round", *place.arguments)
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **NO_THREADS}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{place.out / 'made'} went round the harness" in done.stderr


@pytest.mark.parametrize(
    ("stop_at", "power_loss", "left"),
    [
        (3, "no", {"synced": b"1234"}),
        (7, "no", {"synced": b"12345678", "named": b"12345678"}),
        (8, "all", {}),
        (9, "all", {"synced": b"12345678", "named": b""}),
        (10, "no", {"renamed": b"12345678", "named": b"12345678"}),
        (12, "all", {"synced": b"12345678", "named": b""}),
        (12, "no", {"renamed": b"n"}),
    ],
)
def test_the_modeled_disk_keeps_what_was_synced(base: Path, stop_at: int, power_loss: str, left: dict[str, bytes]) -> None:
    place = Place(base, lesson)
    assert run_alone(place, stop_at, power_loss) == ""
    assert (contents(place.out) if place.out.exists() else {}) == left
