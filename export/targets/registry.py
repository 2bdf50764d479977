"""All targets by name."""

from __future__ import annotations

from sslfeat.errors import UsageError
from sslfeat.export.targets import (
    coreml_package,
    executorch_pte,
    full,
    litert,
    lower,
    ncnn_net,
    openvino_ir,
    servers,
    web,
)
from sslfeat.export.targets.base import FP16, FP32, INT8, Target

APPLE = "Core ML runs on Apple's systems alone: converted and read back, not run"
ANY_SIZE = "it takes images of any size: give them to encoder.onnx in onnxruntime, whole"
STATIC = "it runs in a browser: put the folder on any static server"

TARGETS = {
    target.name: target
    for target in (
        Target("onnx-full", "images of any size in", FP32, full.onnx_full, None, full.MAIN, ANY_SIZE, full.check_full),
        Target("int8", "encoder file in 8 bits, for CPUs", INT8, lower.int8, "onnx"),
        Target("fp16", "encoder file of half the size", FP16, lower.fp16, "onnx"),
        Target("ort", "onnxruntime's format for phones", FP32, lower.ort, "onnxruntime", "encoder.ort"),
        Target("openvino", "OpenVINO IR", FP32, openvino_ir.fp32, "openvino", openvino_ir.MAIN),
        Target("openvino-fp16", "OpenVINO IR of half the size", FP16, openvino_ir.fp16, "openvino", openvino_ir.MAIN),
        Target("openvino-int8", "OpenVINO IR in 8 bits", INT8, openvino_ir.int8, "openvino", openvino_ir.MAIN),
        Target("ncnn", "ncnn, for phones and boards", FP32, ncnn_net.ncnn, "ncnn", ncnn_net.MAIN),
        Target("executorch", "ExecuTorch with XNNPACK", FP32, executorch_pte.executorch, "executorch", executorch_pte.MAIN),
        Target("litert", "LiteRT (TensorFlow Lite)", FP32, litert.litert, "litert", litert.MAIN),
        Target(
            "web",
            "a page that embeds images in the browser",
            FP16,
            web.web,
            None,
            "index.html",
            STATIC,
            web.check_web,
            web.SAMPLES,
        ),
        Target("coreml", "Core ML package", FP32, coreml_package.coreml, None, coreml_package.MAIN, APPLE),
        Target("tensorrt", "all that trtexec needs", FP16, servers.tensorrt, None, servers.PLAIN, servers.NO_GPU),
        Target("triton", "a model repository", FP32, servers.triton, "onnxruntime", servers.MODEL),
    )
}


def find_target(name: str) -> Target:
    """Raises UsageError for an unknown one."""
    if name not in TARGETS:
        known = "\n".join(f"  {target.name:<14} {target.about}" for target in TARGETS.values())
        raise UsageError(f"target {name!r} is unknown; there are onnx, the encoder file of a run, and\n{known}")
    return TARGETS[name]
