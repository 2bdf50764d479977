"""Image decoding in a separate process, so that a crash or hang of a decoder affects only one image.

``python -m sslfeat.data.decode_worker`` reads requests from standard input and writes answers to standard output:

    request   length (4 bytes), path; or length + INLINE, the contents of an image file
    answer    HEADER: kind, width, height, sha256, length of the payload; then the payload
              (kind IMAGE: S x S x 3 bytes RGB; kind FAILURE: the reason, UTF-8)

The client is ``SubprocessDecoder``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import struct
import sys
from dataclasses import dataclass
from typing import Any, BinaryIO

from sslfeat.data.containers.video import read_local
from sslfeat.data.transforms import Decoding, Preprocess, allow_pixels, open_image, prepare, reason

HEADER = struct.Struct("<BII32sI")
LENGTH = struct.Struct("<I")
INLINE = 1 << 31
FAILURE, IMAGE = 0, 1
READY = b"sslfeat"


@dataclass(frozen=True)
class Limits:
    """Limits for decoding one image: ``seconds``, and ``memory`` in bytes of address space."""

    seconds: float = 30.0
    memory: int = 2 << 30


DEFAULT_LIMITS = Limits()


def settings(preprocess: Preprocess, decoding: Decoding, limits: Limits) -> str:
    """Serialize settings to the command-line argument of the worker."""
    return json.dumps([dataclasses.asdict(value) for value in (preprocess, decoding, limits)])


def main() -> None:
    """Answer requests until the end of standard input (also when the parent dies)."""
    preprocess, decoding, limits = _parse(json.loads(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is sent to the whole process group; the parent handles it
    _confine(limits.memory)
    allow_pixels(decoding.max_pixels)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # output of codecs must not mix with the answers
    answers.write(READY)
    answers.flush()
    requests = sys.stdin.buffer
    with contextlib.suppress(BrokenPipeError):
        while header := requests.read(LENGTH.size):
            (length,) = LENGTH.unpack(header)
            text = requests.read(length & ~INLINE)
            _answer(text, bool(length & INLINE), answers, preprocess, decoding)


def _answer(text: bytes, inline: bool, answers: BinaryIO, preprocess: Preprocess, decoding: Decoding) -> None:
    try:
        data = text if inline else read_local(text)
        prepared = prepare(open_image(data, decoding), preprocess, decoding)
        payload = prepared.image.tobytes()
        sha256 = hashlib.sha256(data).digest()
        header = HEADER.pack(IMAGE, prepared.width, prepared.height, sha256, len(payload))
    except Exception as error:  # codecs raise many exception types
        payload = reason(error).encode()
        header = HEADER.pack(FAILURE, 0, 0, b"", len(payload))
    answers.write(header + payload)  # one write, so that the parent wakes up once
    answers.flush()


def _parse(values: list[dict[str, Any]]) -> tuple[Preprocess, Decoding, Limits]:
    preprocess, decoding, limits = values
    return Preprocess(**preprocess), Decoding(**decoding), Limits(**limits)


def _confine(memory: int) -> None:
    """Limit the address space to ``memory``, and make this process the first victim of the out-of-memory killer."""
    with contextlib.suppress(ImportError):  # not available on Windows
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (memory if hard < 0 else min(memory, hard), hard))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")


if __name__ == "__main__":
    main()
