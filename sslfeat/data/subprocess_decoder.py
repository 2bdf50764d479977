"""Client of the decoding process; for the protocol see ``decode_worker.py``."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import wait
from typing import BinaryIO, cast

from sslfeat.data.decode import Content, Decoded, Pixels, Readable, Source, read_source
from sslfeat.data.decode_worker import FAILURE, HEADER, INLINE, LENGTH, READY, Limits, settings
from sslfeat.data.read import Coming, is_plain
from sslfeat.data.results import Failed
from sslfeat.data.transforms import Decoding, Preprocess
from sslfeat.errors import ImageError, SslfeatError

COMMAND = (sys.executable, "-P", "-m", "sslfeat.data.decode_worker")
PIPE_BYTES = 1 << 19  # so that neither end waits for the other to read
TICK = 0.5  # seconds between checks of the time limit


class SubprocessDecoder:
    """Decodes files, and contents of files, in a separate process, which is started on demand and after a crash."""

    def __init__(self, preprocess: Preprocess, decoding: Decoding, limits: Limits) -> None:
        decoding.require()
        self._settings = settings(preprocess, decoding, limits)
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._since: float | None = None  # start time of the current image
        self._late = False
        self._closed = threading.Event()
        self._watch = threading.Thread(target=self._kill_when_late, daemon=True, name="sslfeat-watch")
        self._watch.start()

    def decode(self, sources: Sequence[Source], pixels: Pixels) -> list[Decoded | Failed]:
        """Decode files into the rows of ``pixels``, uint8 (N, S, S, 3); rows of failed images are black."""
        outcomes: list[Decoded | Failed] = []
        asked = 0
        for done, source in enumerate(sources):
            if self._closed.is_set():
                return outcomes + [Failed("stopped")] * (len(sources) - done)
            if not _is_local(source):
                outcomes.append(self._decode_inline(source, pixels[done]))
                continue
            if self._process is None:
                self._start()
                asked = done
            asked = max(asked, done)
            while asked < min(done + 2, len(sources)):  # one request ahead, so that the decoder does not wait for the parent
                if asked > done and not _is_local(sources[asked]):
                    break  # contents may fill one pipe while an answer fills the other: deadlock
                self._ask(sources[asked])
                asked += 1
            outcomes.append(self._outcome(pixels[done]))
        return outcomes

    def _decode_inline(self, source: Source, row: Pixels) -> Decoded | Failed:
        """Decode an image that is read in this process: the decoder cannot read containers and remote stores."""
        try:
            if isinstance(source, Coming):
                while not wait([source.data], TICK).done:
                    if self._closed.is_set():
                        raise ImageError("stopped")
            contents = Content(read_source(cast(Readable, source)))
        except ImageError as error:
            row[:] = 0
            return Failed(str(error))
        if self._process is None:
            self._start()
        self._ask(contents)
        return self._outcome(row)

    def abort(self) -> None:
        """Kill the process, from any thread. The current image fails."""
        self._closed.set()
        if process := self._process:
            process.kill()

    def close(self) -> None:
        """Release all resources. Must not be called while another thread decodes."""
        self.abort()
        self._watch.join()
        if self._process is not None:
            _end(self._process)

    def _start(self) -> None:
        process = subprocess.Popen(
            [*COMMAND, self._settings],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _widen(_pipe(process.stdin))
        _widen(_pipe(process.stdout))
        self._process = process
        if self._closed.is_set():  # aborted while it started
            process.kill()
        elif _pipe(process.stdout).read(len(READY)) != READY and not self._closed.is_set():
            self._process = None
            raise SslfeatError(f"the decoding process cannot start ({_end(process)}): check the installation of sslfeat")

    def _ask(self, source: Source) -> None:
        if isinstance(source, Content):
            data, kind = source.data, INLINE
        else:
            data, kind = os.fsencode(cast("str | bytes | os.PathLike[str]", source)), 0
        try:
            pipe = _pipe(self._process and self._process.stdin)
            pipe.write(LENGTH.pack(len(data) | kind) + data)  # one write, so that the decoder wakes up once
            pipe.flush()
        except OSError:  # it died: detected by the next read
            return

    def _outcome(self, row: Pixels) -> Decoded | Failed:
        self._late, self._since = False, time.monotonic()
        try:
            return self._read(row)
        except EOFError:
            row[:] = 0
            return Failed(self._cause_of_death())
        finally:
            self._since = None

    def _read(self, row: Pixels) -> Decoded | Failed:
        answers = _pipe(self._process and self._process.stdout)
        header = answers.read(HEADER.size)
        if len(header) < HEADER.size:
            raise EOFError
        kind, width, height, sha256, size = HEADER.unpack(header)
        if kind == FAILURE:
            row[:] = 0
            reason = answers.read(size)
            if len(reason) < size:
                raise EOFError
            return Failed(reason.decode())
        if cast(io.BufferedReader, answers).readinto(memoryview(row.data).cast("B")) < row.size:
            raise EOFError
        return Decoded(row, width, height, sha256.hex())

    def _cause_of_death(self) -> str:
        process, self._process = self._process, None
        code = _end(process) if process else 0
        if self._late:
            return f"took longer than {self._limits.seconds:g} s to decode"
        if code == -signal.SIGKILL:
            return "its decoder was killed, probably because memory ran out"
        return f"its decoder crashed ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"

    def _kill_when_late(self) -> None:
        while not self._closed.wait(TICK):
            since, process = self._since, self._process
            if since is not None and process is not None and time.monotonic() - since > self._limits.seconds:
                self._late = True
                process.kill()


def _is_local(source: Source) -> bool:
    return not isinstance(source, Content | Coming) and is_plain(os.fsencode(cast("str | bytes | os.PathLike[str]", source)))


def _pipe(pipe: object) -> BinaryIO:
    return cast(BinaryIO, pipe)


def _widen(pipe: BinaryIO) -> None:
    """Enlarge the pipe to the size of an answer, where the system allows it."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _end(process: subprocess.Popen[bytes]) -> int:
    """Close the pipes and wait; return the exit code, negative for a signal."""
    with contextlib.suppress(OSError):  # pending writes have no reader
        _pipe(process.stdin).close()
    _pipe(process.stdout).close()
    return process.wait()
