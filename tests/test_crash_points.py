"""The embedding job ended at its file operations one by one, with and without a power loss, and run again.

A process of its own forks a child for every crash point (see ``tests/crash.py``). SSLFEAT_NIGHTLY takes every operation.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from sslfeat.data.dataset import find_inputs
from sslfeat.data.synthetic import draw_samples
from sslfeat.errors import FeaturesError
from sslfeat.features.update import update_folder
from sslfeat.features.writer import Options, embed_to_folder
from sslfeat.inference.encoder import Encoder
from sslfeat.storage import atomic
from tests.conftest import contents, write_tiny
from tests.crash import CRASHED, POWER_LOSSES, Disk, forked

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the harness follows descriptors through /proc")

ROOT = Path(__file__).resolve().parents[1]
PART = 4
EVERY = 1 if os.environ.get("SSLFEAT_NIGHTLY") else 7
NO_THREADS = {  # none may run when a process forks
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pyarrow
}
Job = Callable[[str, str, str, str], None]


def tell(told: str, done: int) -> None:
    """Progress as the user sees it, out of the crash's reach."""
    with Path(told).open("a") as file:
        file.write(f"{done}\n")


def embed(encoder: str, image_folder: str, out: str, told: str, overwrite: bool = False) -> None:
    """What is put to the test."""
    embed_to_folder(
        Encoder.load(encoder, "cpu", 1),
        find_inputs([image_folder]),
        Path(out),
        Options(part_size=PART, workers=1),
        overwrite=overwrite,
        report=lambda progress: tell(told, progress.done),
    )


def overwrite(encoder: str, image_folder: str, out: str, told: str) -> None:
    """The same where another encoder's finished features are."""
    embed(encoder, image_folder, out, told, overwrite=True)


def go_on(encoder: str, image_folder: str, out: str, told: str) -> None:
    """The user's next command after ``overwrite``: without the option, and with it only if told so."""
    try:
        embed(encoder, image_folder, out, told)
    except FeaturesError as error:
        if "--overwrite" not in str(error):
            raise
        embed(encoder, image_folder, out, told, overwrite=True)


def naive(encoder: str, image_folder: str, out: str, told: str) -> None:
    """A job as it is often written, for the battery to find out: no renaming, no fsync, a file that exists is done."""
    folder = Path(out)
    folder.mkdir(exist_ok=True)
    paths = sorted(Path(image_folder).rglob("*.jpg"))
    tell(told, PART * len(list(folder.iterdir())))
    for first in range(0, len(paths), PART):
        part = folder / f"part-{first // PART:05d}.bin"
        if not part.exists():
            with part.open("wb", buffering=0) as file:
                for path in paths[first : first + PART]:
                    file.write(path.read_bytes())
        tell(told, min(first + PART, len(paths)))


def update(encoder: str, image_folder: str, out: str, told: str) -> None:
    """The features of some of the images are made those of all."""
    update_folder(Encoder.load(encoder, "cpu", 1), find_inputs([image_folder]), Path(out), Options(part_size=PART, workers=1))


def take_over(encoder: str, image_folder: str, out: str, told: str) -> None:
    """The features of copies elsewhere are made those of these images, of which none is embedded again."""
    update(encoder, image_folder, out, told)


NEXT: dict[Job, Job] = {embed: embed, overwrite: go_on, update: update, take_over: take_over, naive: naive}
JOBS = {job.__name__: job for job in NEXT}


class Place:
    """Where one job is put to the test. All of ``world`` can be lost, the rest stays."""

    def __init__(self, base: Path, job: Job) -> None:
        self.job, self.before = job, base / f"before-{job.__name__}"
        home = base / job.__name__
        self.world, self.out, self.told = home / "world", home / "world" / "features", home / "told"
        self.arguments = (str(base / "tiny.onnx"), str(base / "images"), str(self.out), str(self.told))

    def clear(self) -> None:
        """As it is before the job is first run; some find an older run's features."""
        shutil.rmtree(self.world, ignore_errors=True)
        self.world.mkdir(parents=True)
        self.told.unlink(missing_ok=True)
        if self.before.exists():
            shutil.copytree(self.before, self.out, ignore=shutil.ignore_patterns(".lock"))

    def reports(self) -> list[int]:
        """The numbers told since the last call."""
        text = self.told.read_text() if self.told.exists() else ""
        self.told.unlink(missing_ok=True)
        return [int(line) for line in text.split()]


@dataclass(frozen=True)
class Point:
    """A crash and what came of it. ``kept`` of the ``done`` inputs reported needed no doing again."""

    number: int
    power_loss: str
    left: str
    fault: str
    done: int
    kept: int

    @property
    def took_a_finished_part(self) -> bool:
        """A part is finished when the next one's inputs are reported."""
        return self.kept < (self.done - 1) // PART * PART


def features(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if not name.endswith(".lock")}


def digest(files: dict[str, bytes]) -> str:
    return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()


def battery(name: str, every: str, base: str) -> None:
    """Crash ``JOBS[name]`` at every ``every``-th operation, run it again, and print what came of it as JSON."""
    importlib.import_module("pandas")  # or pyarrow does so in every child
    os.fsync = lambda fd: None  # the disk need not be waited for: what it would keep is modeled
    place = Place(Path(base), JOBS[name])
    place.clear()
    assert forked(place.job, place.arguments) == 0
    wanted = features(place.out)
    points: list[Point] = []
    for turn, power_loss in enumerate(POWER_LOSSES):
        number = 1 + turn * int(every) // len(POWER_LOSSES)  # not the same operations again
        while point := crash(place, number, power_loss, wanted):
            points.append(point)
            number += int(every)
    print(json.dumps([asdict(point) for point in points]))


def crash(place: Place, number: int, power_loss: str, wanted: dict[str, bytes]) -> Point | None:
    """One crash and the undisturbed run after it; None if the job has fewer operations."""
    place.clear()
    status = forked(place.job, place.arguments, Disk(place.world, number, power_loss))
    if status == 0:
        return None
    assert status == CRASHED, f"operation {number}: the job ended with {status} before its crash"
    left, done = digest(features(place.world)), max(place.reports(), default=0)
    status = forked(NEXT[place.job], place.arguments)
    found = features(place.out)
    differing = sorted(path for path in {*wanted, *found} if wanted.get(path) != found.get(path))
    fault = f"the next run ended with {status}" if status else f"differing: {differing}" if differing else ""
    return Point(number, power_loss, left, fault, done, next(iter(place.reports()), 0))


def python(*command: str) -> str:
    """What it printed; what failed says so on the test's own stderr."""
    environment = {**os.environ, **NO_THREADS}
    finished = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert finished.returncode in (0, CRASHED)
    return finished.stdout


def run_battery(base: Path, name: str, every: int) -> list[Point]:
    began = time.monotonic()
    code = "import sys; from tests.test_crash_points import battery; battery(*sys.argv[1:])"
    points = [Point(**point) for point in json.loads(python("-c", code, name, str(every), str(base)))]
    print(f"{name}: {len(points)} crash points, every {every}, {time.monotonic() - began:.1f} s")
    return points


def run_alone(place: Place, stop_at: int, power_loss: str) -> str:
    """The harness in a new interpreter. Returns what it printed."""
    place.clear()
    target = f"tests.test_crash_points:{place.job.__name__}"
    return python("tests/crash.py", str(stop_at), power_loss, str(place.world), target, *place.arguments)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 images and a file that is none, features of them by another encoder, and of some of them."""
    base = tmp_path_factory.mktemp("crash")
    draw_samples(base / "images", 30)
    (base / "images" / "circles" / "broken.jpg").write_bytes(b"\xff\xd8 broken")
    tiny, other = write_tiny(base / "tiny.onnx"), write_tiny(base / "other.onnx", seed=1)
    embed(str(other), str(base / "images"), str(base / "before-overwrite"), os.devnull)
    embed(str(tiny), str(base / "images" / "squares"), str(base / "before-update"), os.devnull)
    shutil.copytree(base / "images", base / "copies", copy_function=shutil.copyfile)
    embed(str(tiny), str(base / "copies"), str(base / "before-take_over"), os.devnull)
    return base


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
    command = (sys.executable, "tests/crash.py", "0", "no", place.world, "tests.test_crash_points:go_round", *place.arguments)
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
