"""Images, an encoder, and what embedding them into a folder in memory is to give, on one machine or several."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from sslfeat.data.dataset import ImageRecord, find_inputs
from sslfeat.engines.shares import Share, embed_share
from sslfeat.features.remote import RemoteCopies
from sslfeat.features.remote_begin import is_about
from sslfeat.features.update import update_folder
from sslfeat.features.writer import FeatureRun, Options, Summary, embed_to_folder
from sslfeat.inference.encoder import Encoder
from sslfeat.inference.pipeline import ThreadDecoder
from sslfeat.storage import atomic, claim
from sslfeat.storage.staging import staged
from tests.conftest import contents
from tests.remotes import Memory

URL = "memory://place/features"


@dataclass
class World:
    """Twelve images in four parts, and what is to come of them."""

    encoder: Encoder
    images: Path
    cache: Path
    options: Options

    def inputs(self) -> Sequence[ImageRecord]:
        return find_inputs([self.images])

    def embed(self, overwrite: bool = False) -> int:
        """``sslfeat embed IMAGES --out URL``: how many inputs there were before."""
        with staged(URL, "embed", is_about) as staging:
            copies = RemoteCopies(staging.mirror, staging.claim.hold, overwrite)
            out = staging.mirror.folder
            done = embed_to_folder(self.encoder, self.inputs(), out, self.options, overwrite=overwrite, copies=copies)
            staging.keep()
            return done.resumed

    def share(self, text: str, machine: str = "") -> Summary:
        """``sslfeat embed IMAGES --out URL --parts TEXT``, on a machine of this name: its cache is another."""
        share = Share.parse(text)
        with self.on(machine), staged(URL, "embed", is_about, share.name) as staging:
            copies, out = RemoteCopies(staging.mirror, staging.claim.hold), staging.mirror.folder
            done = embed_share(self.encoder, self.inputs(), out, self.options, share=share, copies=copies)
            staging.keep()
            return done

    @contextlib.contextmanager
    def on(self, machine: str) -> Iterator[None]:
        """On a machine of this name; the machine without one has ``cache``."""
        before = os.environ["SSLFEAT_CACHE"]
        os.environ["SSLFEAT_CACHE"] = str(self.cache.with_name(f"{self.cache.name}{machine}"))
        try:
            yield
        finally:
            os.environ["SSLFEAT_CACHE"] = before

    def lose(self, machine: str) -> None:
        """What a machine had is gone."""
        shutil.rmtree(self.cache.with_name(f"{self.cache.name}{machine}"), ignore_errors=True)

    def update(self) -> None:
        """``sslfeat embed IMAGES --out URL --update``."""
        with staged(URL, "update") as staging:
            update_folder(self.encoder, self.inputs(), staging.mirror.folder, self.options)
            staging.upload()
            staging.keep()

    def local(self, name: str) -> dict[str, bytes]:
        """What an undisturbed run gives on a disk."""
        out = self.cache.with_name(name)
        embed_to_folder(self.encoder, self.inputs(), out, self.options)
        return {name: data for name, data in contents(out).items() if name != atomic.LOCK_NAME}


@pytest.fixture
def world(memory: Memory, tiny: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(FeatureRun, "_decoder", lambda run: ThreadDecoder(run.encoder.card.preprocess))
    monkeypatch.setattr(claim, "BEAT", 0.005)
    images = tmp_path / "images"
    images.mkdir()
    for number, path in enumerate(sorted(image_folder.rglob("*.jpg"))[:11]):
        shutil.copy(path, images / f"{number:02d}.jpg")
    (images / "11.jpg").write_bytes(b"no image")
    return World(Encoder.load(tiny, "cpu", 1), images, tmp_path / "cache", Options(batch_size=2, part_size=3, workers=1))


def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No beats: those are operations that come at any time."""
    monkeypatch.setattr(claim.Claim, "_beat", lambda self: None)
