"""Features folders that are updated or replaced while they are read, and a folder without rows."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sslfeat.data.dataset import find_inputs
from sslfeat.errors import FeaturesError
from sslfeat.features import metadata, reader
from sslfeat.features.reader import Features, FeaturesFolder
from sslfeat.features.update import repair_folder, update_folder
from sslfeat.features.verify import verify
from sslfeat.features.writer import Options, embed_to_folder
from sslfeat.inference.encoder import Encoder
from tests.conftest import TINY_DIM, sslfeat

Action = Callable[[], object]


class World:
    """Images and their features, which change when told to."""

    def __init__(self, tiny: Path, image_folder: Path, base: Path, layout: str = "parquet") -> None:
        self.images, self.out, self.encoder = base / "images", base / "f", Encoder.load(tiny, "cpu", 1)
        self.options = Options(batch_size=3, part_size=7, workers=1, layout=layout)
        shutil.copytree(image_folder, self.images)
        embed_to_folder(self.encoder, find_inputs([self.images]), self.out, self.options)

    def update(self) -> None:
        """Two images fewer, in the first part."""
        for path in sorted(self.images.rglob("*.jpg"))[:2]:
            path.unlink()
        update_folder(self.encoder, find_inputs([self.images]), self.out, self.options)

    def overwrite(self) -> None:
        """The same images but two, from the start."""
        for path in sorted(self.images.rglob("*.jpg"))[:2]:
            path.unlink()
        embed_to_folder(self.encoder, find_inputs([self.images]), self.out, self.options, overwrite=True)

    def back_and_forth(self) -> None:
        """Updated, and updated back to what it was, to the byte."""
        aside = self.images.with_name("aside.jpg")
        first = sorted(self.images.rglob("*.jpg"))[0]
        times = first.stat()
        first.rename(aside)
        update_folder(self.encoder, find_inputs([self.images]), self.out, self.options)
        aside.rename(first)
        assert first.stat().st_mtime_ns == times.st_mtime_ns
        update_folder(self.encoder, find_inputs([self.images]), self.out, self.options)

    def repair(self) -> None:
        """The parts are made again, from images that changed meanwhile."""
        for number, path in enumerate(sorted(self.images.rglob("*.jpg"))):
            path.write_bytes(sorted(self.images.rglob("*.jpg"))[-1 - number].read_bytes())
        for path in self.out.glob("__sslfeat__/part-*.json"):
            path.unlink()
        repair_folder(self.encoder, self.out)

    def check(self, found: Features) -> None:
        """Every row is its image's."""
        now = Features.load(self.out)
        assert found.paths == now.paths
        np.testing.assert_array_equal(found.embeddings, now.embeddings)


@pytest.fixture(params=["parquet", "npy"])
def world(request: pytest.FixtureRequest, tiny: Path, image_folder: Path, tmp_path: Path) -> World:
    return World(tiny, image_folder, tmp_path, request.param)


def meanwhile(monkeypatch: pytest.MonkeyPatch, at: str, call: int, action: Action) -> None:
    """Do ``action`` once, just before call number ``call`` of a function that the reader uses."""
    real, calls = getattr(reader, at), iter(range(1, 10_000))

    def watched(*arguments: Any) -> Any:
        if next(calls) == call:
            action()
        return real(*arguments)

    monkeypatch.setattr(reader, at, watched)


@pytest.mark.parametrize("at", ["read_columns", "read_embeddings", "check_commit", "check_record"])
@pytest.mark.parametrize("action", ["update", "overwrite", "back_and_forth", "repair"])
def test_what_is_loaded_while_the_folder_changes_is_no_mixture(
    action: str, at: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile(monkeypatch, at, 3, getattr(world, action))
    found = Features.load(world.out)
    if action in ("update", "overwrite"):
        assert len(found.paths) == 38
    monkeypatch.undo()
    world.check(found)


@pytest.mark.parametrize("action", ["update", "overwrite"])
def test_a_reader_part_by_part_is_told(action: str, world: World) -> None:
    opened = FeaturesFolder(world.out)
    parts = opened.parts()
    before = next(parts).columns["path"].to_pylist()
    assert len(before) == 7
    getattr(world, action)()
    with pytest.raises(FeaturesError, match=r"updated or replaced while it was read: read it again"):
        next(parts)
    with pytest.raises(FeaturesError, match="read it again"):
        opened.rows()
    again = FeaturesFolder(world.out)
    assert sum(len(part.embeddings) for part in again.parts()) == again.rows() == 38


def test_verify_does_not_call_an_exchange_damage(world: World) -> None:
    found = verify(world.out)
    (world.out / "__sslfeat__/failures.csv").write_bytes(b"path,reason\nx,y\n")
    (world.out / "__sslfeat__/part-00000.json").unlink()
    assert "part-00000" in next(found)
    world.update()
    with pytest.raises(FeaturesError, match="read it again"):
        next(found)
    assert list(verify(world.out)) == []


def test_an_exchange_that_never_ends_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "PAUSES", (0.01, 0.01))
    (world.out / ".update" / metadata.META_FOLDER).mkdir(parents=True)
    (world.out / ".update" / "complete").touch()
    (world.out / "__sslfeat__/features.json").rename(world.out / ".update" / "__sslfeat__/features.json")
    for read in (Features.load, FeaturesFolder, lambda folder: list(verify(folder))):
        with pytest.raises(FeaturesError, match=r"being replaced.*run the last command again"):
            read(world.out)
    refused = sslfeat("info", world.out)
    assert (refused.returncode, "being replaced" in refused.stderr) == (1, True)


def test_an_exchange_that_ends_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    new = world.out / ".update"
    (new / metadata.META_FOLDER).mkdir(parents=True)
    (new / "complete").touch()
    (world.out / "__sslfeat__/features.json").rename(new / "__sslfeat__/features.json")

    def end(seconds: float) -> None:
        (new / "__sslfeat__/features.json").rename(world.out / "__sslfeat__/features.json")
        shutil.rmtree(new)

    monkeypatch.setattr(time, "sleep", end)
    assert len(Features.load(world.out).paths) == 40


def test_a_part_without_rows(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"nothing")
    for layout in ("parquet", "npy"):
        out = tmp_path / layout
        embed_to_folder(Encoder.load(tiny, "cpu", 1), find_inputs([tmp_path / "images"]), out, Options(layout=layout))
        assert Features.load(out).embeddings.shape == (0, TINY_DIM)
        assert list(verify(out)) == []
