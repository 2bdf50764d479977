"""Runtimes that execute a graph: uint8 (N, S, S, 3) in, float32 (N, D) out."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sslfeat.data.decode import Pixels
from sslfeat.errors import EncoderFileError, ProviderError, needs
from sslfeat.inference.onnx_model import INPUT_NAME, OUTPUT_NAME, stamp_of
from sslfeat.system.cores import available_cores
from sslfeat.system.stderr import without_lines

with without_lines(rb"\[W:onnxruntime:|onnxruntime cpuid_info warning"):  # logged on import, before the log level can be set
    import onnxruntime as onnxruntime  # other modules import it from here

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
CUDA_CURE = "install the CUDA libraries with pip install 'onnxruntime-gpu[cuda,cudnn]', or use --provider cpu"
FORK_CURE = "start processes with 'spawn', or load the encoder in the process that runs it"


_LOADED: weakref.WeakSet[Any] = weakref.WeakSet()
_CORES: list[Any] = []  # OpenVINO cores, never freed


def _keep_after_fork() -> None:
    """In a forked child, never free sessions of the parent: destructors would wait for threads that exist only there."""
    for session in _LOADED:
        for value in vars(session).values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_after_fork)


class Session(Protocol):
    """A loaded graph. ``run`` may be called from several threads at once."""

    def run(self, pixels: Pixels) -> npt.NDArray[np.float32]: ...


class OnnxRuntimeBackend:
    """onnxruntime session on the bytes or the path of a file, with ``threads`` threads per inference.

    ``form`` is the file format, ``ONNX`` or ``ORT``; if empty, onnxruntime guesses it from the name or the first bytes, and
    may then read a file differently than it was checked. Sessions can be pickled and used after a fork. Raises
    EncoderFileError, ProviderError.
    """

    def __init__(self, model: bytes | str, provider: str, threads: int, form: str = "") -> None:
        self._recipe = (model, provider, threads, form)
        self._stamp = stamp_of(model) if isinstance(model, str) else None
        self._open()
        _LOADED.add(self)

    def _open(self) -> None:
        give_memory_back()  # used by the checks of the file
        session = _open_session(*self._recipe)
        session._model_bytes = None  # the caller holds the bytes
        self._session = session
        self._process = os.getpid()  # last: until then, other threads open their own session
        give_memory_back()

    def run(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """See ``Session``. Raises EncoderFileError if the graph fails."""
        if os.getpid() != self._process:
            self._after_fork()
        try:
            (embedding,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: pixels})
        except Exception as error:  # onnxruntime's exceptions have no public base class
            raise EncoderFileError(f"inference failed: {brief(error)}") from error
        result: npt.NDArray[np.float32] = embedding
        return result

    def try_out(self) -> None:
        """Run on one black image. Raises EncoderFileError if that fails."""
        _, height, width, _ = self._session.get_inputs()[0].shape
        self.run(np.zeros((1, height, width, 3), np.uint8))

    def _after_fork(self) -> None:
        """Reopen the session in a forked child: its threads exist only in the parent, so a run would wait forever."""
        model, provider, threads, _ = self._recipe
        if provider != "cpu":
            raise ProviderError(f"provider {provider} does not survive a fork: {FORK_CURE}")
        if threads > 1:
            if isinstance(model, str) and stamp_of(model) != self._stamp:
                raise EncoderFileError(f"{model} has changed since it was loaded")
            self._open()
        self._process = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return OnnxRuntimeBackend, self._recipe


class OpenVinoBackend:
    """OpenVINO on the CPU in ``precision`` ``fp32`` or ``bf16``; runs as many inferences in parallel as the cores allow.

    Raises MissingExtraError without the extra ``openvino``, EncoderFileError for an unsupported graph.
    """

    def __init__(self, data: bytes | Path, precision: str, threads: int) -> None:
        core, cores = _openvino_core(os.getpid()), available_cores()
        settings = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": cores,
            "NUM_STREAMS": max(1, cores // threads),
        }
        try:
            self._compiled = core.compile_model(core.read_model(data), "CPU", settings)
        except RuntimeError as error:
            raise EncoderFileError(f"OpenVINO cannot load the encoder: {brief(error)}") from error
        self._requests = threading.local()  # requests are not thread-safe
        _LOADED.add(self)
        self._process = os.getpid()

    def run(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """See ``Session``. Raises EncoderFileError if the graph fails, ProviderError after a fork."""
        if os.getpid() != self._process:
            raise ProviderError(f"OpenVINO does not survive a fork: {FORK_CURE}")
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        try:
            result: npt.NDArray[np.float32] = self._requests.own.infer([pixels])[0].copy()
        except RuntimeError as error:
            raise EncoderFileError(f"inference failed: {brief(error)}") from error
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("an OpenVINO session cannot be pickled: load the encoder in the process that runs it")


@functools.cache
def _openvino_core(process: int) -> Any:
    """Return the OpenVINO Core of this process. Cores are never freed, nor are those created concurrently by other threads.

    The CPU plugin sets a signal stack for the thread that loads it, and unmaps it when the Core is freed, on any thread: the
    next Ctrl-C would cause a segmentation fault.
    """
    with needs("openvino", "openvino"):
        import openvino
    core = openvino.Core()
    _CORES.append(core)
    return core


def give_memory_back() -> None:
    """Return freed memory to the system: after loading, glibc retains up to three times the size of the encoder."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _open_session(model: bytes | str, provider: str, threads: int, form: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are reported as exceptions
    if form:
        options.add_session_config_entry("session.load_model_format", form)
    if provider != "cpu" and PROVIDERS[provider] not in onnxruntime.get_available_providers():
        raise ProviderError(f"provider {provider}: not included in the installed onnxruntime; {CUDA_CURE}")
    try:
        with _quiet(provider):
            session = onnxruntime.InferenceSession(
                model, options, providers=[PROVIDERS[provider]], enable_fallback=0, read_config_from_model=0
            )
    except Exception as error:  # no public base class
        raise EncoderFileError(f"onnxruntime cannot load the encoder: {brief(error)}") from error
    if session.get_providers()[0] != PROVIDERS[provider]:
        raise ProviderError(f"provider {provider} cannot run here{_missing_library()}; {CUDA_CURE}")
    return session


@contextlib.contextmanager
def _quiet(provider: str) -> Iterator[None]:
    """Suppress the output of onnxruntime while it looks for CUDA, some of it on standard output."""
    if provider == "cpu":
        yield
        return
    onnxruntime.set_default_logger_severity(4)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            if hasattr(onnxruntime, "preload_dlls"):
                onnxruntime.preload_dlls()
            yield
    finally:
        onnxruntime.set_default_logger_severity(2)  # the default, which cannot be queried


def _missing_library() -> str:
    """The reason why onnxruntime's CUDA provider cannot be loaded: the first missing library."""
    name = "onnxruntime_providers_cuda.dll" if os.name == "nt" else "libonnxruntime_providers_cuda.so"
    try:
        ctypes.CDLL(str(Path(onnxruntime.__file__).parent / "capi" / name))
    except OSError as error:
        return f" ({brief(error)})"
    return ""


def brief(error: Exception) -> str:
    """First line of a runtime's error message."""
    return str(error).strip().split("\n")[0][:300]
