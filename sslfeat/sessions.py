"""The runtimes that carry a graph out: whatever they are, uint8 (N, S, S, 3) goes in and float32 (N, D) comes out."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from sslfeat.cores import available_cores
from sslfeat.encoder_file import INPUT_NAME, OUTPUT_NAME
from sslfeat.errors import EncoderFileError, MissingExtraError, ProviderError
from sslfeat.images import Pixels

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Session(Protocol):
    """A loaded graph. ``run`` may be called from several threads at once."""

    def run(self, pixels: Pixels) -> npt.NDArray[np.float32]: ...


class OnnxSession:
    """onnxruntime, with ``threads`` threads an inference, on a file's bytes or path.

    Raises EncoderFileError, ProviderError.
    """

    def __init__(self, model: bytes | str, provider: str, threads: int) -> None:
        give_memory_back()  # of checking the file
        self._session = _open_session(model, provider, threads)
        self._session.disable_fallback()  # which would need the file's bytes to stay in memory ...
        self._session._model_bytes = None  # ... where they are as large as the encoder itself
        give_memory_back()

    def run(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """As ``Session`` says. Raises EncoderFileError if the graph fails."""
        try:
            (embedding,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: pixels})
        except Exception as error:  # onnxruntime's own exceptions share no public base
            raise EncoderFileError(f"it failed to run: {brief(error)}") from error
        result: npt.NDArray[np.float32] = embedding
        return result


class OpenVinoSession:
    """OpenVINO on the CPU in ``precision`` ``fp32`` or ``bf16``; as many inferences at once as there are cores for.

    Raises MissingExtraError without the extra ``openvino``, EncoderFileError for a graph that it refuses.
    """

    def __init__(self, data: bytes | Path, precision: str, threads: int) -> None:
        try:
            import openvino
        except ImportError as error:
            raise MissingExtraError("openvino", "openvino") from error
        cores = available_cores()
        settings = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": cores,
            "NUM_STREAMS": max(1, cores // threads),
        }
        try:
            self._compiled = openvino.compile_model(openvino.Core().read_model(data), "CPU", settings)
        except RuntimeError as error:
            raise EncoderFileError(f"OpenVINO cannot load the encoder: {brief(error)}") from error
        self._requests = threading.local()  # a request is one thread's at a time

    def run(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """As ``Session`` says. Raises EncoderFileError if the graph fails."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        try:
            result: npt.NDArray[np.float32] = self._requests.own.infer([pixels])[0].copy()
        except RuntimeError as error:
            raise EncoderFileError(f"it failed to run: {brief(error)}") from error
        return result


def give_memory_back() -> None:
    """Return what loading an encoder took and freed: glibc keeps up to three times the encoder's size."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _open_session(model: bytes | str, provider: str, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # faults reach the user as our errors
    if provider == "cuda" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    try:
        session = onnxruntime.InferenceSession(model, options, providers=[PROVIDERS[provider]])
    except Exception as error:  # as above: no public base class
        raise EncoderFileError(f"onnxruntime cannot load the encoder: {brief(error)}") from error
    if session.get_providers()[0] != PROVIDERS[provider]:
        raise ProviderError(
            f"provider {provider} was asked for, but onnxruntime fell back to {session.get_providers()[0]}: check that "
            "onnxruntime-gpu and its CUDA libraries are installed, or use --provider cpu"
        )
    return session


def brief(error: Exception) -> str:
    """The first line of what a runtime says."""
    return str(error).strip().split("\n")[0][:300]
