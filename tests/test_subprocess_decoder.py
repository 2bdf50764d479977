"""Images that kill, hang or bloat their decoder: that image fails, with a reason, and the others do not notice."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sslfeat.data import subprocess_decoder
from sslfeat.data.decode import Decoded, Decoding, Preprocess, decode
from sslfeat.data.decode_worker import Limits
from sslfeat.data.results import Failed
from sslfeat.data.subprocess_decoder import SubprocessDecoder
from sslfeat.data.transforms import EXACT
from sslfeat.errors import SslfeatError

PREPROCESS = Preprocess(resize=16, size=16)
# A decoder that does what the name of the file says.
HOSTILE = """
import os, signal, time
from sslfeat.data import decode_worker as decoder
read = decoder.read_local
def read_local(path):
    if b"segv" in path: os.kill(os.getpid(), signal.SIGSEGV)
    if b"kill" in path: os.kill(os.getpid(), signal.SIGKILL)
    if b"exit" in path: os._exit(7)
    if b"hang" in path: time.sleep(600)
    if b"bloat" in path: bytearray(4 << 30)
    if b"print" in path: print("a codec prints", flush=True); os.write(1, b"and writes")
    return read(path)
decoder.read_local = read_local
decoder.main()
"""


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(subprocess_decoder, "COMMAND", (sys.executable, "-c", HOSTILE))
    yield


def image(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    Image.effect_noise(size, 64).convert("RGB").save(path)
    return path


def outcomes(paths: list[Path], limits: Limits | None = None) -> tuple[list[Decoded | Failed], np.ndarray]:
    pixels = np.full((len(paths), 16, 16, 3), 7, np.uint8)
    with closing(SubprocessDecoder(PREPROCESS, EXACT, limits or Limits(seconds=2.0))) as decoder:
        return decoder.decode(paths, pixels), pixels


def test_a_process_gives_what_a_thread_gives(tmp_path: Path) -> None:
    paths = [image(tmp_path / f"{index}.png", (40 + index, 30)) for index in range(5)]
    found, pixels = outcomes(paths)
    for path, outcome, row in zip(paths, found, pixels, strict=True):
        here = decode(path, PREPROCESS)
        assert isinstance(outcome, Decoded)
        assert (outcome.width, outcome.height, outcome.sha256) == (here.width, here.height, here.sha256)
        np.testing.assert_array_equal(row, here.pixels)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("segv", "its decoder crashed (SIGSEGV)"),
        ("kill", "its decoder was killed, probably because memory ran out"),
        ("exit", "its decoder crashed (exit code 7)"),
        ("hang", "took longer than 2 s to decode"),
        ("bloat", "not enough memory to decode it: raise --max-memory"),
    ],
)
@pytest.mark.usefixtures("hostile")
def test_an_image_that_ends_its_decoder_is_the_only_one_lost(name: str, said: str, tmp_path: Path) -> None:
    names = ["a", name, "b", f"{name}-again", "c"]
    found, pixels = outcomes([image(tmp_path / f"{name}.png") for name in names])
    assert [isinstance(outcome, Decoded) for outcome in found] == [True, False, True, False, True]
    assert [outcome.reason for outcome in found if isinstance(outcome, Failed)] == [said, said]
    assert not pixels[1].any()
    assert pixels[4].any()


@pytest.mark.usefixtures("hostile")
def test_what_a_codec_prints_does_not_get_among_the_answers(tmp_path: Path) -> None:
    found, _ = outcomes([image(tmp_path / "print.png"), image(tmp_path / "b.png")])
    assert all(isinstance(outcome, Decoded) for outcome in found)


def test_an_image_beyond_the_memory_limit_fails(tmp_path: Path) -> None:
    Image.new("RGB", (9000, 9000)).save(tmp_path / "large.png")
    found, _ = outcomes([tmp_path / "large.png", image(tmp_path / "small.png")], Limits(20.0, 256 << 20))
    assert found[0] == Failed("not enough memory to decode it: raise --max-memory")
    assert isinstance(found[1], Decoded)


def test_the_pixel_limit_is_the_callers(tmp_path: Path) -> None:
    path = image(tmp_path / "a.png", (40, 30))
    pixels = np.empty((1, 16, 16, 3), np.uint8)
    for limit, fails in ((1200, False), (1199, True)):
        with closing(SubprocessDecoder(PREPROCESS, Decoding(max_pixels=limit), Limits())) as decoder:
            (found,) = decoder.decode([path], pixels)
        assert isinstance(found, Failed) == fails
    assert found == Failed("40 x 30 px exceeds the limit of 1199 pixels")


def test_a_decoder_that_cannot_start_is_an_error_not_a_failed_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess_decoder, "COMMAND", (sys.executable, "-c", "raise SystemExit(5)"))
    with pytest.raises(SslfeatError, match="cannot start"):
        outcomes([image(tmp_path / "a.png")])


@pytest.mark.usefixtures("hostile")
def test_closing_does_not_wait_for_an_image_that_hangs(tmp_path: Path) -> None:
    import threading

    decoder = SubprocessDecoder(PREPROCESS, EXACT, Limits(seconds=600))
    pixels = np.empty((1, 16, 16, 3), np.uint8)
    thread = threading.Thread(target=decoder.decode, args=([image(tmp_path / "hang.png")], pixels))
    thread.start()
    time.sleep(1)
    began = time.monotonic()
    decoder.abort()
    thread.join(10)
    decoder.close()
    assert not thread.is_alive()
    assert time.monotonic() - began < 5


def test_a_decoder_ends_with_its_parent(tmp_path: Path) -> None:
    """Its standard input ends when the parent dies, however that comes about."""
    code = (
        "import os, subprocess, sys\n"
        "from sslfeat.data import subprocess_decoder as isolated\n"
        "from sslfeat.data.decode_worker import Limits\n"
        "from sslfeat.data.decode import Preprocess\n"
        "from sslfeat.data.transforms import EXACT\n"
        "decoder = isolated.SubprocessDecoder(Preprocess(resize=16, size=16), EXACT, Limits())\n"
        "decoder._start()\n"
        "print(decoder._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False)
    child = Path("/proc") / run.stdout.decode().strip()
    for _ in range(50):
        if not child.exists() or "sslfeat.data.decode_worker" not in (child / "cmdline").read_text():
            return
        time.sleep(0.1)
    raise AssertionError("the decoder outlived its parent")
