"""Embedding jobs that are killed, interrupted, or run at the same time as another writer of the same folder."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from sslfeat.data.dataset import find_inputs
from sslfeat.errors import FeaturesError
from sslfeat.features import reader as features
from sslfeat.features.files import exchange
from sslfeat.features.reader import Features
from sslfeat.features.update import update_folder
from sslfeat.features.verify import verify
from sslfeat.features.writer import Options
from sslfeat.inference.encoder import Encoder
from sslfeat.storage import atomic
from tests.conftest import contents, sslfeat
from tests.embed_job import run


def test_a_second_writer_is_kept_out(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with FileLock(tmp_path / "f" / atomic.LOCK_NAME), pytest.raises(FeaturesError, match="another process"):
        run(tiny, image_folder, tmp_path / "f")


def start(tiny: Path, images: Path, out: Path) -> subprocess.Popen[bytes]:
    code = "from sslfeat.cli.app import main; main()"
    options: list[str | Path] = ["--encoder", tiny, "--out", out, "--batch-size", "4", "--part-size", "40", "--threads", "1"]
    return subprocess.Popen(
        [sys.executable, "-c", code, "embed", images, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def many(image_folder: Path, folder: Path, copies: int) -> Path:
    """``copies`` links to each drawn image, and a broken file among every forty."""
    for number in range(copies):
        for path in image_folder.rglob("*.jpg"):
            target = folder / path.parent.name / f"{number:03d}-{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(path)
        (folder / "circles" / f"{number:03d}-broken.jpg").write_bytes(b"\xff\xd8 broken")
    return folder


def test_killed_at_random_moments_the_folder_is_the_same(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    images = many(image_folder, tmp_path / "images", 40)
    whole = start(tiny, images, tmp_path / "whole")
    whole.communicate()
    assert whole.returncode == 3
    wanted = contents(tmp_path / "whole")
    parts = len(list((tmp_path / "whole").glob("__sslfeat__/part-*.json")))
    rng = random.Random(1)
    killed = resumed = 0
    for round_number in range(200 if os.environ.get("SSLFEAT_NIGHTLY") else 20):
        out = tmp_path / f"round-{round_number}"
        for _ in range(2):
            process = start(tiny, images, out)
            enough = rng.randrange(parts)
            while process.poll() is None and len(list(out.glob("__sslfeat__/part-*.json"))) < enough:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.1))
            process.kill()
            process.communicate()
            killed += process.returncode == -signal.SIGKILL
            resumed += any(out.glob("__sslfeat__/part-*.json")) and not (out / "__sslfeat__/failures.csv").exists()
            if process.returncode != -signal.SIGKILL:
                break
        last = start(tiny, images, out)
        last.communicate()
        assert last.returncode == 3
        assert contents(out) == wanted, f"round {round_number}"
        shutil.rmtree(out)
    assert killed >= 20, killed
    assert resumed >= 5, f"only {resumed} kills fell between the first commit and the end"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_and_goes_on(tiny: Path, image_folder: Path, tmp_path: Path, signum: signal.Signals) -> None:
    images = many(image_folder, tmp_path / "images", 60)
    process = start(tiny, images, tmp_path / "f")
    while not any((tmp_path / "f").glob("__sslfeat__/part-*.json")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signum)
    stderr = process.communicate(timeout=20)[1]
    assert process.returncode == 128 + signum, stderr
    assert b"run it again" in stderr
    again = start(tiny, images, tmp_path / "f")
    again.communicate()
    assert again.returncode == 3
    assert list(verify(tmp_path / "f")) == []


def test_an_exchange_that_is_interrupted_is_carried_through_by_the_next_command(
    tiny: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = tmp_path / "images", tmp_path / "f"
    shutil.copytree(image_folder, images)
    run(tiny, images, out)
    next(images.rglob("*.jpg")).unlink()
    encoder, inputs = Encoder.load(tiny, "cpu", 1), find_inputs([images])
    real, calls = Path.replace, iter(range(1000))

    def interrupted(self: Path, target: Path) -> Path:
        if self.parent.name == ".update" and self.name.startswith("part-") and next(calls) == 4:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        update_folder(encoder, inputs, out, Options(3, 7))
    monkeypatch.undo()
    assert not (out / "__sslfeat__/features.json").exists()
    monkeypatch.setattr(features, "PAUSES", (0.01,))
    with pytest.raises(FeaturesError, match="being replaced"):
        Features.load(out)
    summary = run(tiny, images, out)
    assert (summary.embedded, summary.resumed) == (39, 39)
    assert list(verify(out)) == []
    assert not (out / ".update").exists()


def test_of_two_updates_one_wins_and_the_other_says_why(
    tiny: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = tmp_path / "images", tmp_path / "f"
    shutil.copytree(image_folder, images)
    run(tiny, images, out)
    next(images.rglob("*.jpg")).unlink()
    real = exchange

    def meanwhile(folder: Path) -> None:
        refused = sslfeat("embed", images, "--encoder", tiny, "--out", out, "--part-size", "7", "--batch-size", "3", "--update")
        assert (refused.returncode, "being written by another process" in refused.stderr) == (1, True)
        real(folder)

    monkeypatch.setattr("sslfeat.features.update.exchange", meanwhile)
    update_folder(Encoder.load(tiny, "cpu", 1), find_inputs([images]), out, Options(3, 7))
    assert len(Features.load(out).paths) == 39
