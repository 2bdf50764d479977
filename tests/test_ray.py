"""Parts on other machines: the worker by itself, and a Ray cluster of this machine, cut off from the network if possible."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sslfeat.data.dataset import find_inputs
from sslfeat.data.manifest import Manifest
from sslfeat.engines.part_worker import PartInputs, PartWorker
from sslfeat.engines.ray_cluster import RayEngine
from sslfeat.errors import EncoderFileError, FeaturesError
from sslfeat.features.folder import begin_folder
from sslfeat.features.metadata import part_count, read_run, slice_of
from sslfeat.features.writer import FeatureRun, Options, embed_to_folder
from sslfeat.inference.encoder import Encoder
from sslfeat.storage import atomic, claim
from tests.conftest import contents, sslfeat, write_tiny
from tests.remotes import bucket

__all__ = ["bucket"]

OPTIONS = Options(batch_size=3, part_size=7, workers=1)


def features(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(out).items() if name != atomic.LOCK_NAME}


@pytest.fixture
def begun(tiny: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., PartWorker]:
    """Makes a worker of a folder ``f`` that was begun, with relative paths, which begin at the folder of the images."""
    monkeypatch.chdir(image_folder.parent)
    encoder, manifest = Encoder.load(tiny, "cpu", 1), Manifest.take(find_inputs([image_folder.name]))
    run = OPTIONS.describe(encoder, manifest)
    (tmp_path / "f").mkdir()
    begin_folder(tmp_path / "f", run, manifest, {})

    def worker(**other: Any) -> PartWorker:
        make, facts = encoder.__reduce__()
        given = {"folder": Path.cwd(), "make": make, "facts": facts, "out": tmp_path / "f", "options": OPTIONS, "run": run}
        return PartWorker(**{**given, **other})

    return worker


def embed_all(worker: PartWorker, out: Path, images: str) -> None:
    run, inputs = read_run(out), find_inputs([images])
    for number in reversed(range(part_count(run))):
        numbers = slice_of(run, number)
        assert len(worker.embed(number, numbers.start, [inputs[index] for index in numbers])) == 3


def test_a_worker_writes_what_a_local_run_does(
    begun: Callable[..., PartWorker], tiny: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, folder = begun(), Path.cwd()
    monkeypatch.chdir(tmp_path)  # as on another machine
    assert (worker.start(), worker.progress()) == (0, 0)
    assert Path.cwd() == folder
    embed_all(worker, tmp_path / "f", image_folder.name)
    assert worker.progress() == 40
    encoder, inputs = Encoder.load(tiny, "cpu", 1), find_inputs([image_folder.name])
    embed_to_folder(encoder, inputs, tmp_path / "whole", OPTIONS)
    summary = embed_to_folder(encoder, inputs, tmp_path / "f", OPTIONS)
    assert (summary.resumed, features(tmp_path / "f")) == (40, features(tmp_path / "whole"))


def test_a_machine_that_is_not_alike_is_refused(begun: Callable[..., PartWorker], tmp_path: Path) -> None:
    run = read_run(tmp_path / "f")
    with pytest.raises(FeaturesError, match=r"nowhere does not exist on .*: all machines need the same files"):
        begun(folder=tmp_path / "nowhere").start()
    with pytest.raises(FeaturesError, match="is not a features folder"):
        begun(out=tmp_path / "elsewhere").start()
    with pytest.raises(FeaturesError, match="all machines need the same files"):
        begun(run=replace(run, part_size=8)).start()
    other = replace(run, versions={**run.versions, "pillow": "1.0"})
    (tmp_path / "f/__sslfeat__/features.json").write_bytes(other.to_json())
    with pytest.raises(FeaturesError, match=r"versions\.pillow = '1\.0', not "):
        begun(run=other).start()


def test_a_worker_loads_no_other_encoder(begun: Callable[..., PartWorker], tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "e.onnx")
    make, facts = Encoder.load(path, "cpu", 1).__reduce__()
    write_tiny(path, seed=1)
    with pytest.raises(EncoderFileError):
        begun(make=make, facts=facts).start()


def test_a_worker_leaves_a_folder_that_was_made_anew(
    begun: Callable[..., PartWorker], image_folder: Path, tmp_path: Path
) -> None:
    worker = begun()
    worker.start()
    encoder, inputs = Encoder.load(write_tiny(tmp_path / "o.onnx", seed=1), "cpu"), find_inputs([image_folder.name])
    embed_to_folder(encoder, inputs, tmp_path / "f", OPTIONS, overwrite=True)
    before = contents(tmp_path / "f")
    with pytest.raises(FeaturesError, match="differs from that of the run"):
        worker.embed(0, 0, inputs[:7])
    assert contents(tmp_path / "f") == before


def test_inputs_of_a_part_keep_their_numbers(image_folder: Path) -> None:
    inputs = find_inputs([image_folder])
    part = PartInputs(7, inputs[7:14])
    assert [part[number] for number in range(7, 14)] == list(inputs[7:14])
    for number in (6, 14, 0):
        with pytest.raises(IndexError):
            part[number]


def test_an_engine_gets_what_is_missing_and_none_is_started_for_nothing(
    tiny: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[list[int]] = []

    def engine(job: FeatureRun, missing: list[int]) -> None:
        given.append(missing)
        job.embed(missing)

    encoder, inputs = Encoder.load(tiny, "cpu", 1), find_inputs([image_folder])
    embed_to_folder(encoder, inputs, tmp_path / "f", OPTIONS, engine=engine)
    whole = features(tmp_path / "f")
    (tmp_path / "f" / "part-00003.parquet").unlink()
    embed_to_folder(encoder, inputs, tmp_path / "f", OPTIONS, engine=engine)
    assert (given, features(tmp_path / "f")) == ([[0, 1, 2, 3, 4, 5], [3]], whole)
    monkeypatch.setitem(sys.modules, "ray", None)  # whose import would fail
    assert embed_to_folder(encoder, inputs, tmp_path / "f", OPTIONS, engine=RayEngine()).resumed == 40


def cut_off() -> list[str]:
    """What runs a command in a network of its own; nothing where that is not allowed."""
    script = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    command = ["unshare", "--user", "--map-root-user", "--net", *script]
    if shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
        return command
    return []


def test_a_cluster_of_this_machine_writes_the_same(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    common = ("embed", image_folder, "--encoder", tiny, "--part-size", "7", "--batch-size", "3", "--out")
    assert sslfeat(*common, tmp_path / "whole").returncode == 0
    code = "from sslfeat.cli.app import main; main()"
    command = [*cut_off(), sys.executable, "-c", code, *map(str, common), str(tmp_path / "f"), "--engine", "ray"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=dict(os.environ), check=False)
    assert done.returncode == 0, done.stderr
    assert features(tmp_path / "f") == features(tmp_path / "whole")


def test_a_cluster_of_this_machine_writes_the_same_to_a_store(
    bucket: Path, tiny: Path, image_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    common = ("embed", image_folder, "--encoder", tiny, "--part-size", "7", "--batch-size", "3", "--out")
    assert sslfeat(*common, tmp_path / "whole").returncode == 0
    done = sslfeat(*common, "s3://bucket/f", "--engine", "ray", timeout=300)
    assert done.returncode == 0, done.stderr
    there = {name: data for name, data in contents(bucket / "f").items() if not claim.is_claim(name)}
    assert there == features(tmp_path / "whole")
    done = sslfeat(*common, "s3://bucket/f", "--engine", "ray")
    assert (done.returncode, "(40 of 40 by an earlier run)" in done.stdout) == (0, True), done.stderr
