"""Frames of videos, read with PyAV: ``film.mp4#t=12.0`` is the frame shown 12 seconds after the start.

Frames are decoded sequentially, since each depends on earlier ones; going back requires seeking to a key frame.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from sslfeat.data.names import VIDEO_ENDINGS, ending
from sslfeat.data.transforms import read_file
from sslfeat.errors import ImageError, UsageError, needs

FRAME = re.compile(rb"\A(.+)#t=(\d{1,9}(?:\.\d{1,6})?)\Z", re.DOTALL)
INTERVAL = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*(ms|s|min)?")
UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0}
MOST_FRAMES = 10_000_000
FORWARD = 20.0  # seconds to decode forward rather than seek
LAST = 1.0  # maximum duration of the last frame in seconds: beyond it, frames are missing
KEPT = 4  # open videos per process
EARLY = 1e-4  # tolerance in seconds: times are rounded to the video's time base


def split_frame(path: bytes) -> tuple[bytes, float] | None:
    """Split the path of a frame into video and seconds; None for other paths."""
    if b"#t=" not in path:
        return None
    found = FRAME.match(path)
    return (found[1], float(found[2])) if found and ending(found[1]) in VIDEO_ENDINGS else None


def parse_interval(text: str) -> float:
    """Parse ``1s``, ``500ms``, ``2min`` or a number to seconds. Raises UsageError."""
    found = INTERVAL.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise UsageError(f"--every {text!r} is invalid: use for example 1s, 500ms or 2min")
    return float(found[1]) * UNITS[found[2] or "s"]


def frame_path(video: bytes, seconds: float) -> bytes:
    """Path of a frame."""
    text = f"{seconds:.6f}".rstrip("0")
    return b"%s#t=%s" % (video, (text + "0" if text.endswith(".") else text).encode())


def frame_paths(video: bytes, every: float) -> Iterator[bytes]:
    """Paths of frames at intervals of ``every`` seconds. Raises ImageError if the video cannot be read."""
    length = _Video(video).length
    for number in range(min(int((length - EARLY) / every) + 1 if length > EARLY else 1, MOST_FRAMES)):
        yield frame_path(video, number * every)


def read_local(path: bytes) -> bytes:
    """Read a file; a frame is returned as an RGB PPM file. Raises ImageError."""
    found = split_frame(path)
    return read_file(path) if found is None else _read_frame(*found)


def _read_frame(video: bytes, seconds: float) -> bytes:
    with LOCK:
        try:
            status = os.stat(video)
        except (OSError, ValueError) as error:
            raise ImageError(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
        key = (video, status.st_size, status.st_mtime_ns)
        opened = OPEN.pop(key, None) or _Video(video)
        OPEN[key] = opened
        while len(OPEN) > KEPT:
            OPEN.popitem(last=False)[1].close()
        return opened.frame(seconds)


class _Video:
    """An open video."""

    def __init__(self, path: bytes) -> None:
        with needs("video"):
            import av
        self._av = av
        try:
            self._file = av.open(path.decode("utf-8", "surrogateescape"), metadata_errors="ignore")
            self._stream = self._file.streams.video[0]
        except IndexError as error:
            raise ImageError("it contains no video") from error
        except (av.FFmpegError, OSError, ValueError) as error:
            raise ImageError(f"the video cannot be opened: {_reason(error)}") from error
        self._base = float(self._stream.time_base or 0)
        self._begin = (self._stream.start_time or 0) * self._base
        self._damaged = False
        self._frames: Iterator[Any] = self._decoded()
        self._shown: Any = None  # the frame before ``_next``
        self._next: Any = next(self._frames, None)

    @property
    def length(self) -> float:
        """Duration in seconds."""
        if self._stream.duration:
            return float(self._stream.duration * self._base)
        return float(self._file.duration or 0) / self._av.time_base

    def frame(self, seconds: float) -> bytes:
        """Frame shown at this time, as PPM. Raises ImageError if the video ends before, or is damaged there."""
        at = self._time(self._shown)
        if at is None or not at - EARLY <= seconds <= at + FORWARD:
            self._seek(seconds)
        while self._next is not None and (self._time(self._next) or 0.0) <= seconds + EARLY:
            self._shown, self._next = self._next, next(self._frames, None)
        at = self._time(self._shown)
        if at is None or (self._next is None and (self._damaged or seconds > at + LAST)):
            raise ImageError("the video cannot be decoded at this time")
        image = self._shown.to_image()
        pixels: bytes = image.convert("RGB").tobytes()
        return b"P6\n%d %d\n255\n" % image.size + pixels

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _seek(self, seconds: float) -> None:
        try:
            self._file.seek(max(0, int((seconds + self._begin) / self._base)) if self._base else 0, stream=self._stream)
        except self._av.FFmpegError as error:
            raise ImageError(f"the video cannot be read at this time: {_reason(error)}") from error
        self._frames, self._damaged = self._decoded(), False
        self._shown, self._next = None, next(self._frames, None)
        if self._shown is None and self._next is not None and (self._time(self._next) or 0.0) > seconds + EARLY:
            self._shown = self._next  # before the first frame, show the first

    def _time(self, frame: Any) -> float | None:
        return None if frame is None or frame.pts is None else float(frame.pts * self._base) - self._begin

    def _decoded(self) -> Iterator[Any]:
        try:
            yield from self._file.decode(self._stream)
        except (self._av.FFmpegError, ValueError):
            self._damaged = True


OPEN: OrderedDict[tuple[bytes, int, int], _Video] = OrderedDict()
LOCK = threading.Lock()


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).split(":")[0]
