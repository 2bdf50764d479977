"""All targets by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sslfeat.errors import UsageError, did_you_mean
from sslfeat.export.targets import coreml_package, executorch_pte, full, litert, lower, ncnn_net, openvino_ir, servers, web
from sslfeat.export.targets.base import FP16, FP32, INT8, Gate, Source, Target

APPLE = "Core ML can only be run on Apple's systems: converted and read back, but not run"
ANY_SIZE = "its encoder.onnx accepts images of any size: run it with onnxruntime in your own program"
STATIC = "it runs in a browser: put the folder on any static server"

OPENVINO, LITERT = ("openvino", "openvino"), ("litert", "litert_torch", "ai_edge_litert")


def _openvino(name: str, about: str, gate: Gate, make: Callable[[Source, Path], None]) -> Target:
    return Target(
        name, about, gate, make, "openvino", openvino_ir.MAIN, needs=OPENVINO, device=openvino_ir.DEVICE,
        takes=openvino_ir.check_takes,
    )  # fmt: skip


TARGETS = {
    target.name: target
    for target in (
        Target(
            "onnx-full",
            "images of any size in",
            FP32,
            full.onnx_full,
            None,
            full.MAIN,
            ANY_SIZE,
            full.check_full,
            device=full.DEVICE,
            takes=full.check_takes,
        ),
        Target("int8", "encoder file in 8 bits, for CPUs", INT8, lower.int8, "onnx"),
        Target("fp16", "encoder file of half the size", FP16, lower.fp16, "onnx", takes=lower.check_halves),
        Target("ort", "onnxruntime's format for phones", FP32, lower.ort, "onnxruntime", "encoder.ort", device=lower.ORT),
        _openvino("openvino", "OpenVINO IR", FP32, openvino_ir.fp32),
        _openvino("openvino-fp16", "OpenVINO IR of half the size", FP16, openvino_ir.fp16),
        _openvino("openvino-int8", "OpenVINO IR in 8 bits", INT8, openvino_ir.int8),
        Target(
            "ncnn",
            "ncnn, for mobile and embedded devices",
            FP32,
            ncnn_net.ncnn,
            "ncnn",
            ncnn_net.MAIN,
            needs=("ncnn", "ncnn", "pnnx"),
            device=ncnn_net.DEVICE,
            weights=True,
        ),
        Target(
            "executorch",
            "ExecuTorch with XNNPACK",
            FP32,
            executorch_pte.executorch,
            "executorch",
            executorch_pte.MAIN,
            needs=("executorch", "executorch"),
            device=executorch_pte.DEVICE,
            weights=True,
        ),
        Target(
            "litert",
            "LiteRT (TensorFlow Lite)",
            FP32,
            litert.litert,
            "litert",
            litert.MAIN,
            needs=LITERT,
            device=litert.DEVICE,
            weights=True,
        ),
        Target(
            "web",
            "a page that embeds images in the browser",
            FP16,
            web.web,
            None,
            web.INDEX,
            STATIC,
            web.check_web,
            web.SAMPLES,
            device=web.DEVICE,
            tools=web.check_tools,
            takes=full.check_takes,
        ),
        Target(
            "coreml",
            "Core ML package",
            FP32,
            coreml_package.coreml,
            None,
            coreml_package.MAIN,
            APPLE,
            needs=("coreml", "coremltools"),
            device=coreml_package.DEVICE,
            weights=True,
        ),
        Target(
            "tensorrt",
            "ONNX file and build script for trtexec",
            FP16,
            servers.tensorrt,
            None,
            servers.PLAIN,
            servers.NO_GPU,
            device=servers.FOR_TENSORRT,
        ),
        Target("triton", "a model repository", FP32, servers.triton, "onnxruntime", servers.MODEL, device=servers.FOR_TRITON),
    )
}


def find_target(name: str) -> Target:
    """The target of this name. Raises UsageError if it is unknown."""
    if name not in TARGETS:
        known = ", ".join(("onnx", *TARGETS))
        raise UsageError(f"unknown target {name!r}: choose one of {known}", did_you_mean(name, TARGETS))
    return TARGETS[name]
