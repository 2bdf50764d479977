"""Sessions of exported artifacts in their runtimes: uint8 (N, S, S, 3) to float32 (N, D) for all of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sslfeat.data.decode import Pixels
from sslfeat.errors import EncoderFileError, needs
from sslfeat.export.artifact import read_artifact, read_onnx
from sslfeat.export.targets.registry import TARGETS
from sslfeat.inference.backends import OnnxRuntimeBackend, OpenVinoBackend, Session
from sslfeat.inference.model_card import Card, Identity
from sslfeat.inference.onnx_model import read_encoder_file
from sslfeat.inference.registry import resolve
from sslfeat.numerics.arrays import FloatArray


def open_artifact(path: str | Path, threads: int = 1) -> Session:
    """Load an encoder file, a shipped encoder by name, or a folder made by ``sslfeat export --target``.

    Raises EncoderFileError, MissingExtraError if the runtime is not installed.
    """
    found = resolve(path)
    if not found.is_dir():
        return OnnxRuntimeBackend(read_encoder_file(found).data, "cpu", threads)
    about, card = read_artifact(found)
    if about.runtime is None:
        runs = ", ".join(name for name, target in TARGETS.items() if target.runtime not in (None, "onnx"))
        raise EncoderFileError(
            f"{found}: target {about.target} cannot be run here ({about.unrun})",
            f"'sslfeat compare' and 'sslfeat bench' accept encoder files and folders of these targets: {runs}",
        )
    if about.runtime == "onnxruntime":
        return OnnxRuntimeBackend(read_onnx(found, about), "cpu", threads)
    return OPENERS[about.runtime](found / about.main, card, threads)


def described(path: str | Path) -> tuple[str, Card]:
    """Name and card, without loading the artifact. Raises EncoderFileError."""
    found = resolve(path)
    if not found.is_dir():
        card = read_encoder_file(found).card
        return card.name, card
    about, card = read_artifact(found)
    return f"{card.name}-{about.target}", card


def identity_of(path: str | Path) -> Identity:
    """Name and fingerprint of an encoder, or of the encoder of an artifact. Raises EncoderFileError."""
    found = resolve(path)
    if not found.is_dir():
        return read_encoder_file(found).identity
    about, card = read_artifact(found)
    return Identity(card.name, about.of)


class NcnnSession:
    """ncnn, one image at a time."""

    def __init__(self, main: Path, card: Card, threads: int) -> None:
        with needs("ncnn", "ncnn"):
            import ncnn
        self._net, self._ncnn, self._side = ncnn.Net(), ncnn, card.preprocess.size
        self._net.opt.num_threads = threads
        self._net.opt.use_fp16_storage = self._net.opt.use_fp16_arithmetic = self._net.opt.use_bf16_storage = False
        for status in (self._net.load_param(str(main)), self._net.load_model(str(main.with_suffix(".bin")))):
            if status:  # ncnn raises no exceptions
                raise EncoderFileError(f"ncnn cannot load {main}: status {status}")

    def run(self, pixels: Pixels) -> FloatArray:
        """See ``Session``. Raises EncoderFileError if the graph fails."""
        return np.stack([self._one(image) for image in pixels])

    def _one(self, image: Pixels) -> FloatArray:
        rgb = self._ncnn.Mat.PixelType.PIXEL_RGB
        extractor = self._net.create_extractor()
        extractor.input("in0", self._ncnn.Mat.from_pixels(np.ascontiguousarray(image), rgb, self._side, self._side))
        status, found = extractor.extract("out0")
        if status:
            raise EncoderFileError(f"ncnn failed to run: status {status}")
        return np.array(found, np.float32)


class ExecuTorchSession:
    """ExecuTorch; the number of threads is that of the machine."""

    def __init__(self, main: Path, card: Card, threads: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning that it is experimental
            with needs("executorch", "executorch"):
                from executorch.runtime import Runtime
            import torch

            self._torch = torch
            try:
                self._program = Runtime.get().load_program(main)
                self._method = self._program.load_method("forward")
            except RuntimeError as error:
                raise EncoderFileError(f"ExecuTorch cannot load {main}: {error}") from error

    def run(self, pixels: Pixels) -> FloatArray:
        """See ``Session``. Raises EncoderFileError if the graph fails."""
        if self._method is None:
            raise EncoderFileError("the program has no method 'forward'")
        try:
            (found,) = self._method.execute([self._torch.from_numpy(np.ascontiguousarray(pixels))])
        except RuntimeError as error:
            raise EncoderFileError(f"ExecuTorch failed to run: {error}") from error
        result: FloatArray = found.numpy().copy()
        return result


class LiteRtSession:
    """LiteRT, one image at a time."""

    def __init__(self, main: Path, card: Card, threads: int) -> None:
        with needs("litert", "ai-edge-litert"):
            from ai_edge_litert.interpreter import Interpreter
        try:
            self._interpreter = Interpreter(str(main), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise EncoderFileError(f"LiteRT cannot load {main}: {error}") from error

    def run(self, pixels: Pixels) -> FloatArray:
        """See ``Session``."""
        return np.concatenate([self._one(image[None]) for image in pixels])

    def _one(self, image: Pixels) -> FloatArray:
        (into,), (out,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        planes = np.ascontiguousarray(image.transpose(0, 3, 1, 2), np.float32)
        self._interpreter.set_tensor(into["index"], planes)
        self._interpreter.invoke()
        result: FloatArray = self._interpreter.get_tensor(out["index"]).copy()
        return result


# the package of each runtime's extra, which has the runtime's name; onnxruntime is always installed
RUNTIME_PACKAGES = {"openvino": "openvino", "ncnn": "ncnn", "executorch": "executorch", "litert": "ai_edge_litert"}
OPENERS: dict[str, Callable[[Path, Card, int], Session]] = {
    "openvino": lambda main, card, threads: OpenVinoBackend(main, "fp32", threads),
    "ncnn": NcnnSession,
    "executorch": ExecuTorchSession,
    "litert": LiteRtSession,
}
