"""What a terminal shows while a command works: a bar whose ETA is there as soon as there is a pace."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sslfeat.cli import console
from sslfeat.cli.console import Eta
from sslfeat.cli.train import describe
from sslfeat.evaluation.clustering.clustering import ClusterOptions, cluster
from sslfeat.evaluation.projection import project
from sslfeat.models.engine.reporting import TrainProgress
from sslfeat.system.plurals import counted


def on_terminal(*arguments: str | Path, timeout: float = 300) -> str:
    """What a command line shows on a terminal of its own."""
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "sslfeat", *map(str, arguments)]
    shown, end = b"", time.monotonic() + timeout
    environment = {**os.environ, "COLUMNS": "140", "TERM": "xterm-256color"}
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        while time.monotonic() < end:
            try:
                read = os.read(ours, 65536)
            except OSError:  # the other side is closed
                break
            if not read:
                break
            shown += read
        process.kill()
    os.close(ours)
    assert process.returncode == 0, shown.decode()
    return shown.decode()


def test_training_says_how_long_it_takes_from_its_first_steps(image_folder: Path, tmp_path: Path) -> None:
    options = ("--backbone", "resnet10_w8", "--image-size", "32", "--batch-size", "8", "--provider", "cpu", "--steps", "4")
    shown = on_terminal("train", "rotation", image_folder, "--out", tmp_path / "run", *options)
    assert re.search(r"ETA \d+:\d\d:\d\d", shown)  # before the first report of figures, at step 20
    assert re.search(r"step \d", shown)


def test_figures_of_an_earlier_step_are_told_as_such() -> None:
    read = TrainProgress(0.4, 20, 149.0, {"loss": 5.2591, "accuracy": 0.094, "chance": 0.002})
    assert describe(read) == "step 20  149 images/s  loss 5.259  accuracy 0.094 (chance 0.002)"
    assert describe(read, 20) == describe(read)
    assert describe(read, 32) == "step 32  at step 20:  149 images/s  loss 5.259  accuracy 0.094 (chance 0.002)"


def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_eta_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock(monkeypatch)
    eta = Eta(10)
    assert eta.seconds() is None
    eta.update(0)
    now[0] += 5  # getting ready does not count
    eta.update(0)
    now[0] += 2
    eta.update(1)
    assert eta.seconds() == pytest.approx(18)
    now[0] += 3  # it runs down while nothing is told
    assert eta.seconds() == pytest.approx(15)
    now[0] += 60
    assert eta.seconds() == 0
    eta.update(0.5)  # another step of the work
    assert eta.seconds() is None
    now[0] += 1
    eta.update(5.25)
    assert eta.seconds() == pytest.approx(1)


def test_a_resumed_run_is_timed_from_where_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock(monkeypatch)
    eta = Eta(100)
    eta.update(90)
    now[0] += 10
    eta.update(95)
    assert eta.seconds() == pytest.approx(10)


@pytest.mark.parametrize(("number", "noun", "said"), [(1, "image", "1 image"), (2, "image", "2 images"), (0, "copy", "0 copies")])
def test_plurals(number: int, noun: str, said: str) -> None:
    assert counted(number, noun) == said


def test_the_search_for_k_and_tsne_tell_how_far_they_are() -> None:
    x = np.random.default_rng(0).normal(0, 1, (120, 8)).astype(np.float32)
    x[:60] += 5
    steps: list[tuple[float, str]] = []
    cluster(x, ClusterOptions(), lambda share, what: steps.append((share, what)))
    shares = [share for share, _ in steps]
    assert shares == sorted(shares) and shares[0] == 0 and 0.5 < shares[-1] < 1
    assert [what for _, what in steps[:2]] == ["trying 2 clusters", "trying 3 clusters"]
    steps.clear()
    pytest.importorskip("sklearn")
    project(x, "tsne", step=lambda share, what: steps.append((share, what)))
    assert [share for share, _ in steps[:3]] == [0, 0.05, 0.1]
    assert "iteration 100 of at most 1000" in steps[2][1]


def test_where_nothing_is_known_it_says_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with console.stages() as stage:
        stage("making one")
        stage("making two")
    assert capsys.readouterr().err == "making one ...\nmaking two ...\n"
