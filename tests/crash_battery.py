"""Jobs that are ended at their file operations and run again, and what came of it, for tests."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from sslfeat.data.dataset import find_inputs
from sslfeat.data.synthetic import draw_samples
from sslfeat.errors import FeaturesError
from sslfeat.features.update import update_folder
from sslfeat.features.writer import Options, embed_to_folder
from sslfeat.inference.encoder import Encoder
from tests.conftest import contents, write_tiny
from tests.crash import forked
from tests.crash_disk import CRASHED, POWER_LOSSES, Disk

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
    code = "import sys; from tests.crash_battery import battery; battery(*sys.argv[1:])"
    points = [Point(**point) for point in json.loads(python("-c", code, name, str(every), str(base)))]
    print(f"{name}: {len(points)} crash points, every {every}, {time.monotonic() - began:.1f} s")
    return points


def run_alone(place: Place, stop_at: int, power_loss: str) -> str:
    """The harness in a new interpreter. Returns what it printed."""
    place.clear()
    target = f"{place.job.__module__}:{place.job.__name__}"
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
