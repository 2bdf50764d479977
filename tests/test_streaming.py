"""Images that are not kept decoded: the same batches from files, containers and stores, and what happens when one is gone."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest

from sslfeat.data.dataset import find_inputs
from sslfeat.data.decode import decode
from sslfeat.data.manifest import UNKNOWN, Manifest
from sslfeat.errors import RemoteError, TrainingError
from sslfeat.models.engine import data, pixel_cache
from sslfeat.models.engine.checkpoint import read_tensors
from sslfeat.models.engine.config import TrainConfig
from sslfeat.models.engine.data import Images, load_images
from sslfeat.models.engine.pixels import Reader, StreamedPixels
from sslfeat.models.engine.reporting import Reporter
from sslfeat.models.engine.trainer import train
from sslfeat.storage import retry
from tests import in_process
from tests.containers import files_of, write_parquet, write_tar, write_zip

SIZE = 16
ROW = 3 * SIZE**2
DRAWN = np.array([3, 3, 39, 0, 7, 21, 39])
CONFIG = TrainConfig("deepcluster", (), "resnet10_w8", SIZE, 8, steps=5, accelerator="cpu", options={"cycle": 2, "clusters": 4})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSLFEAT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def whole(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights of a run that keeps all images."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(dataclasses.replace(CONFIG, images=(str(image_folder),)), out)
    return weights(out)


def weights(run: Path) -> str:
    """sha256 of all tensors of the checkpoint and of the encoder's file."""
    tensors, _ = read_tensors(run / "last.ckpt")
    parts = [name.encode() + tensors[name].numpy().tobytes() for name in sorted(tensors)]
    return hashlib.sha256(b"".join([*parts, (run / "encoder.safetensors").read_bytes()])).hexdigest()


def place(kind: str, folder: Path, tmp_path: Path) -> str:
    """The images of ``folder`` somewhere else."""
    if kind == "folder":
        return str(folder)
    files = files_of(folder)
    write = {"tar": write_tar, "zip": write_zip, "parquet": write_parquet}[kind.removeprefix("remote ")]
    path = write(tmp_path / f"all.{kind.removeprefix('remote ')}", files)
    if not kind.startswith("remote"):
        return str(path)
    url = f"memory://{tmp_path.name}/{path.name}"
    fsspec.filesystem("memory").pipe_file(url, path.read_bytes())
    return url


@pytest.mark.parametrize(
    ("kind", "kept"),
    [("folder", 0), ("folder", 17), ("tar", 0), ("zip", 30), ("parquet", 0), ("remote tar", 0), ("remote parquet", 5)],
)
def test_a_run_ends_with_the_same_weights_whatever_is_kept(
    kind: str, kept: int, whole: str, image_folder: Path, tmp_path: Path, cache: Path
) -> None:
    notes: list[str] = []
    config = dataclasses.replace(CONFIG, images=(place(kind, image_folder, tmp_path),))
    train(config, tmp_path / "run", cache_size=kept * ROW + ROW // 2, reporter=Reporter(warn=notes.append))
    assert weights(tmp_path / "run") == whole
    assert any(f"{40 - kept} of 40 images are read whenever they are sampled" in note for note in notes)
    assert [path.stat().st_size for path in cache.rglob(pixel_cache.PIXELS_NAME)] == [kept * ROW]


@pytest.mark.parametrize("kept", [0, 1, 20, 39, 40])
def test_batches_are_the_same_whatever_is_kept(kept: int, image_folder: Path, tmp_path: Path) -> None:
    inputs = find_inputs([image_folder])
    truth = load_images(inputs, SIZE, tmp_path)
    images = load_images(inputs, SIZE, tmp_path, cache_size=kept * ROW)
    assert (len(images.pixels), images.pixels.shape, images.streamed) == (40, (40, SIZE, SIZE, 3), 40 - kept)
    np.testing.assert_array_equal(images.pixels[DRAWN], truth.pixels[DRAWN])
    assert images.contents == truth.contents
    images.close()


def copied(image_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(image_folder, tmp_path / "images")
    return tmp_path / "images"


def test_an_image_that_vanishes_in_training_is_named_and_the_run_goes_on_when_it_is_back(
    whole: str, image_folder: Path, tmp_path: Path
) -> None:
    folder = copied(image_folder, tmp_path)
    config = dataclasses.replace(CONFIG, images=(str(folder),))

    def vanish(share: float, step: int) -> None:
        if step == 2:
            folder.rename(tmp_path / "away")

    with pytest.raises(TrainingError, match=r"images/.*\.jpg can no longer be read: .*--resume"):
        train(config, tmp_path / "run", cache_size=0, checkpoint_steps=1, reporter=Reporter(stepped=vanish))
    (tmp_path / "away").rename(folder)
    train(config, tmp_path / "run", cache_size=0, resume=True)
    assert weights(tmp_path / "run") == whole


def test_another_image_in_the_place_of_one_is_refused(image_folder: Path, tmp_path: Path) -> None:
    inputs = find_inputs([copied(image_folder, tmp_path)])
    images = load_images(inputs, SIZE, tmp_path, cache_size=4 * ROW)
    shutil.copy(os.fsdecode(inputs[7].path), os.fsdecode(inputs[5].path))
    assert images.pixels[np.array([3, 7])].shape == (2, SIZE, SIZE, 3)
    with pytest.raises(TrainingError, match="has changed since the run was started") as refused:
        images.pixels[np.array([5])]
    assert inputs[5].name in str(refused.value)


def test_a_store_that_is_away_ends_the_run_and_no_image_counts_as_broken(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.test_remote_inputs import Flaky

    inputs = find_inputs([place("remote tar", image_folder, tmp_path)])
    images = load_images(inputs, SIZE, tmp_path, cache_size=0)
    with monkeypatch.context() as patch:
        Flaky(patch, 3)
        assert images.pixels[DRAWN].any()
    monkeypatch.setenv(retry.RETRY_VARIABLE, "0.05")
    Flaky(monkeypatch, 10**9)
    with pytest.raises(TrainingError, match=r"continue with --resume: reading memory://.*the store is away"):
        images.pixels[DRAWN]
    with pytest.raises(RemoteError, match="the store is away"):
        load_images(inputs, SIZE + 1, tmp_path, cache_size=0)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images were read at each time; what a process that trains alone has in memory is on disk here."""
    counts: list[int] = []
    read = Reader.read

    def counted(reader: Reader, paths: list[bytes]) -> list[object]:
        if paths:
            counts.append(len(paths))
        return list(read(reader, paths))

    monkeypatch.setattr(Reader, "read", counted)
    monkeypatch.setattr(data, "MEMORY_LIMIT", 0)
    return counts


def pixels_of(images: Images) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return images.pixels[np.arange(len(images.pixels))]


def test_runs_share_what_is_decoded(image_folder: Path, tmp_path: Path, cache: Path, decoded: list[int]) -> None:
    inputs = find_inputs([image_folder])
    first = load_images(inputs, SIZE, tmp_path / "a")
    second = load_images(inputs, SIZE, tmp_path / "b")
    assert decoded == [40]
    np.testing.assert_array_equal(pixels_of(first), pixels_of(second))
    assert first.contents == second.contents and first.identity == second.identity
    load_images(inputs[:39], SIZE, tmp_path / "a")
    load_images(inputs, SIZE + 1, tmp_path / "a")
    assert decoded == [40, 39, 40]
    assert not (tmp_path / "a").exists() and len(list(cache.rglob(pixel_cache.PIXELS_NAME))) == 3


def test_the_cache_is_bounded_and_what_a_run_has_open_stays_readable(
    image_folder: Path, tmp_path: Path, cache: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = find_inputs([image_folder])
    first = load_images(inputs, SIZE, tmp_path)
    monkeypatch.setenv("SSLFEAT_CACHE_GIB", str(30 * ROW / (1 << 30)))
    for used in cache.rglob(".used"):
        os.utime(used, (time.time() - 7200,) * 2)
    second = load_images(inputs, SIZE, tmp_path)  # as many as the cache may hold
    assert second.streamed == 10 and [path.stat().st_size for path in cache.rglob(pixel_cache.PIXELS_NAME)] == [30 * ROW]
    np.testing.assert_array_equal(pixels_of(first), pixels_of(second))


@pytest.mark.parametrize("name", [pixel_cache.PIXELS_NAME, pixel_cache.LINES_NAME])
def test_what_is_not_whole_is_decoded_again(
    name: str, image_folder: Path, tmp_path: Path, cache: Path, decoded: list[int]
) -> None:
    inputs = find_inputs([image_folder])
    first = load_images(inputs, SIZE, tmp_path)
    (path,) = cache.rglob(name)
    shutil.copy(path, tmp_path / "cut")
    os.truncate(tmp_path / "cut", path.stat().st_size - 5)
    (tmp_path / "cut").rename(path)  # a new file, for the old one is mapped
    np.testing.assert_array_equal(pixels_of(first), pixels_of(load_images(inputs, SIZE, tmp_path)))
    assert decoded == [40, 40]


def test_an_image_that_failed_is_tried_again_by_the_next_run(
    image_folder: Path, tmp_path: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the package that reads it is installed, which changes no file."""
    folder = copied(image_folder, tmp_path)
    (folder / "zz.jpg").write_bytes(b"no image")
    inputs = find_inputs([folder])
    assert len(load_images(inputs, SIZE, tmp_path).failures) == len(load_images(inputs, SIZE, tmp_path).failures) == 1
    assert decoded == [41, 1]
    monkeypatch.setattr(
        "sslfeat.models.engine.pixels.decode",
        lambda source, *more: decode(inputs[0].path if source.endswith(b"zz.jpg") else source, *more),
    )
    images = load_images(inputs, SIZE, tmp_path)
    assert (len(images.pixels), images.failures) == (41, ())


def test_what_may_have_changed_unseen_is_kept_for_one_run_alone(
    image_folder: Path, tmp_path: Path, cache: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Manifest.take

    def unknown(inputs: object) -> Manifest:
        manifest = take(inputs)  # type: ignore[arg-type]
        return dataclasses.replace(manifest, changed=np.full_like(manifest.changed, UNKNOWN))

    monkeypatch.setattr(Manifest, "take", unknown)
    images = load_images(find_inputs([image_folder]), SIZE, tmp_path / "run")
    assert not list(cache.rglob(pixel_cache.PIXELS_NAME)) and len(list((tmp_path / "run").rglob(pixel_cache.PIXELS_NAME))) == 1
    pixel_cache.remove_caches(tmp_path / "run")
    assert not list((tmp_path / "run").iterdir()) and pixels_of(images).any()


def test_a_disk_without_room_is_refused_before_anything_is_decoded(
    image_folder: Path, tmp_path: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(TrainingError, match=r"0.0 GB are free .*--cache-size"):
        load_images(find_inputs([image_folder]), SIZE, tmp_path)
    assert decoded == []


def test_the_option_takes_sizes(image_folder: Path, tmp_path: Path) -> None:
    run = ("train", "rotation", image_folder, "--out", tmp_path / "run", "--steps", "1", "--backbone", "resnet10_w8")
    ended = in_process.run(*run, "--image-size", str(SIZE), "--batch-size", "8", "--provider", "cpu", "--cache-size", "10K")
    assert ended.returncode == 0 and "27 of 40 images are read whenever they are sampled" in ended.stderr
    refused = in_process.run(*run, "--cache-size", "much")
    assert refused.returncode == 2 and "--cache-size 'much' is not a size" in refused.stderr


def test_pixels_that_are_streamed_ask_for_each_image_once(image_folder: Path, decoded: list[int], tmp_path: Path) -> None:
    images = load_images(find_inputs([image_folder]), SIZE, tmp_path, cache_size=0)
    assert isinstance(images.pixels, StreamedPixels)
    images.pixels[DRAWN]
    assert decoded == [40, 5]
