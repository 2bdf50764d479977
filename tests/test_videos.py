"""Frames of videos as images: the right ones, in the order of time, and what is broken said."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sslfeat.data.containers.video import frame_path, parse_interval, split_frame
from sslfeat.data.dataset import find_inputs
from sslfeat.data.read import exists, read_image
from sslfeat.errors import ImageError, InputError, UsageError
from sslfeat.features.reader import Features
from sslfeat.features.writer import Options, embed_to_folder
from sslfeat.inference.encoder import Encoder

av = pytest.importorskip("av")
RATE = 8


def write_video(path: Path, seconds: int = 13, begin: int = 0) -> Path:
    """Each second a gray of its own: 10 + 15 a second."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size, stream.bit_rate = 64, 48, "yuv420p", 20, 2_000_000
        for number in range(seconds * RATE):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 + 15 * (number // RATE), np.uint8), "rgb24")
            frame.pts = number + begin
            for packet in stream.encode(frame):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)
    return path


def gray(path: bytes) -> float:
    return float(np.asarray(Image.open(io.BytesIO(read_image(path)))).mean())


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_a_frame_is_the_one_that_is_shown_then(ending: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / f"film.{ending}")
    found = find_inputs([path], every=1.0)
    assert [record.name for record in found] == [f"{path}#t={second}.0" for second in range(13)]
    for second, record in enumerate(found):
        assert abs(gray(record.path) - (10 + 15 * second)) < 4, record.name
    for when in (11.9, 3.05, 3.95, 0.0, 12.5):  # in any order
        assert abs(gray(frame_path(str(path).encode(), when)) - (10 + 15 * int(when))) < 4, when


def test_frames_are_embedded_as_their_images_would_be(tiny: Path, tmp_path: Path) -> None:
    path = write_video(tmp_path / "film.mp4", 5)
    encoder = Encoder.load(tiny, "cpu", 1)
    inputs = find_inputs([tmp_path], every=0.5)
    summary = embed_to_folder(encoder, inputs, tmp_path / "f", Options(part_size=4))
    assert (summary.embedded, summary.failed) == (10, 0)
    images = [Image.open(io.BytesIO(read_image(record.path))) for record in inputs]
    np.testing.assert_allclose(Features.load(tmp_path / "f").embeddings, np.stack(list(encoder.embed(images))), atol=1e-6)
    assert exists(inputs[3].path) and path.exists()


def test_videos_are_taken_when_asked_for(image_folder: Path, tmp_path: Path) -> None:
    path = write_video(tmp_path / "film.mp4", 2)
    with pytest.raises(InputError, match="--every 1s"):
        find_inputs([path])
    (tmp_path / "in").symlink_to(image_folder)
    said: list[str] = []
    assert len(find_inputs([tmp_path], note=said.append)) == 40
    assert any("skipped 1 videos" in text for text in said)
    assert len(find_inputs([tmp_path], every=1.0)) == 42


def test_a_video_that_is_broken(tmp_path: Path) -> None:
    (tmp_path / "none.mp4").write_bytes(b"no video at all" * 100)
    found = find_inputs([tmp_path / "none.mp4"], every=1.0)
    assert [record.name for record in found] == [str(tmp_path / "none.mp4")]
    with pytest.raises(ImageError, match="the video cannot be opened"):
        read_image(f"{tmp_path}/none.mp4#t=1.0".encode())
    path = write_video(tmp_path / "film.mkv")
    with pytest.raises(ImageError, match="cannot be decoded at this time"):
        read_image(f"{path}#t=90.0".encode())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert abs(gray(f"{path}#t=2.0".encode()) - 40) < 4
    with pytest.raises(ImageError, match="cannot be decoded at this time"):
        read_image(f"{path}#t=12.0".encode())


def test_names_of_frames() -> None:
    assert frame_path(b"a.mp4", 12.0) == b"a.mp4#t=12.0"
    assert frame_path(b"a.mp4", 0.25) == b"a.mp4#t=0.25"
    assert split_frame(b"a.mp4#t=0.25") == (b"a.mp4", 0.25)
    assert split_frame(b"a.jpg#t=0.25") is None
    assert [parse_interval(text) for text in ("1s", "500ms", "2min", "0.5")] == [1.0, 0.5, 120.0, 0.5]
    for text in ("", "0s", "1 hour", "-1s"):
        with pytest.raises(UsageError):
            parse_interval(text)
