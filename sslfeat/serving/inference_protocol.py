"""Open Inference Protocol, version 2 (KServe, Triton): the encoder as two models, with binary tensors.

``NAME`` is the encoder file: ``image`` uint8 (N, S, S, 3) to ``embedding`` float32 (N, D). ``NAME-files`` takes image files
instead, ``image`` BYTES (N,), and resizes them like the other routes.
"""

from __future__ import annotations

import functools
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from sslfeat import __version__
from sslfeat.data.decode import Source
from sslfeat.data.results import Failed
from sslfeat.inference.onnx_model import INPUT_NAME, OUTPUT_NAME
from sslfeat.numerics.arrays import FloatArray
from sslfeat.serving import openapi
from sslfeat.serving.answers import Refusal, json_answer
from sslfeat.serving.bodies import media_type, read_body
from sslfeat.serving.service import Service
from sslfeat.serving.tensors import LENGTH_HEADER, InferBody, Tensor, contents_of, pack, pixels_of, unpack

FILES = "-files"
VERSION = "1"
OF_INFERENCE = ("application/json", "application/octet-stream")
KNOWN = functools.partial(openapi.route, tag="Open Inference Protocol")
CODES = "400 401 403 404 503"
STATE, ABOUT = KNOWN(openapi.of_json({"type": "object"}), CODES), KNOWN(openapi.of_json(openapi.listed("name")), CODES)
INFER = KNOWN(
    {**openapi.of_json(openapi.listed("model_name", "outputs")), "application/octet-stream": openapi.BINARY},
    "404 " + openapi.IMAGE_ERRORS,
    {**openapi.of_json(InferBody.model_json_schema()), "application/octet-stream": openapi.BINARY},
)


def add_inference_protocol(app: FastAPI, service: Service) -> None:
    """Add the routes of the protocol."""
    _add_server(app, service)
    _add_models(app, service)
    for place in ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer"):

        @app.post(place, **INFER)
        async def infer(request: Request, name: str, version: str = VERSION) -> Response:
            """Embed tensors."""
            files = _files(service, name, version)
            service.batcher.check_room()
            if media_type(request, OF_INFERENCE[0])[0] not in OF_INFERENCE:
                raise Refusal(415, "the body is not an inference request", "send application/json or octet-stream")
            body = await read_body(request, service.limits)
            asked, tensor = unpack(body, request.headers.get(LENGTH_HEADER))
            rows = await _embed(service, tensor, files)
            return pack(asked, {"model_name": name, "model_version": VERSION}, OUTPUT_NAME, rows)


def _add_server(app: FastAPI, service: Service) -> None:
    @app.get("/v2", **ABOUT)
    async def server() -> Response:
        """Server metadata."""
        return json_answer({"name": "sslfeat", "version": __version__, "extensions": ["binary_tensor_data"]})

    @app.get("/v2/health/live", **STATE)
    async def live() -> Response:
        """Liveness."""
        return json_answer({"live": True})

    @app.get("/v2/health/ready", **STATE)
    async def ready() -> Response:
        """Whether the service accepts requests."""
        return json_answer({"ready": service.ready}, 200 if service.ready else 503)


def _add_models(app: FastAPI, service: Service) -> None:
    for place in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):

        @app.get(place, **ABOUT)
        async def model(name: str, version: str = VERSION) -> Response:
            """Model metadata: its tensors."""
            files = _files(service, name, version)
            inputs, outputs = _tensors(service, files)
            facts = {"name": name, "versions": [VERSION], "platform": "onnxruntime_onnx"}
            return json_answer({**facts, "inputs": [inputs], "outputs": [outputs]})

        @app.get(f"{place}/ready", **STATE)
        async def ready(name: str, version: str = VERSION) -> Response:
            """Whether a model is ready."""
            _files(service, name, version)
            return json_answer({"name": name, "ready": service.ready}, 200 if service.ready else 503)

        @app.get(f"{place}/config", **ABOUT)
        async def config(name: str, version: str = VERSION) -> Response:
            """Model configuration for Triton clients."""
            files = _files(service, name, version)
            described = [
                {
                    "name": item["name"],
                    "data_type": f"TYPE_{_triton(item['datatype'])}",
                    "dims": item["shape"][1:] or [1],
                }
                for item in _tensors(service, files)
            ]
            limit = service.limits.max_images
            facts = {"name": name, "platform": "onnxruntime_onnx", "max_batch_size": limit}
            return json_answer({**facts, "input": described[:1], "output": described[1:]})


def _triton(datatype: str) -> str:
    return "STRING" if datatype == "BYTES" else datatype


def _files(service: Service, name: str, version: str) -> bool:
    """Whether the model takes files. Raises Refusal, 404, for an unknown model."""
    ours = service.identity.name
    if name not in (ours, ours + FILES) or version != VERSION:
        raise Refusal(404, f"the model {name[:60]!r}, version {version[:20]!r}, is not served", f"use {ours!r}")
    return name == ours + FILES


def _tensors(service: Service, files: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    side = service.encoder.card.preprocess.size
    shape = [-1] if files else [-1, side, side, 3]
    given = {"name": INPUT_NAME, "datatype": "BYTES" if files else "UINT8", "shape": shape}
    return given, {"name": OUTPUT_NAME, "datatype": "FP32", "shape": [-1, service.encoder.dim]}


async def _embed(service: Service, tensor: Tensor, files: bool) -> FloatArray:
    """float32 (N, D). Raises Refusal."""
    import numpy as np

    if tensor.name != INPUT_NAME:
        raise Refusal(422, f"unknown input {tensor.name[:60]!r}", f"the input is {INPUT_NAME!r}")
    if not tensor.shape or not 1 <= tensor.shape[0] <= service.limits.max_images:
        raise Refusal(413, f"the shape is {tensor.shape[:8]}", f"send 1 to {service.limits.max_images} images")
    side = service.encoder.card.preprocess.size
    images: list[Source] = list(contents_of(tensor)) if files else list(pixels_of(tensor, side))
    outcomes = await service.embed(images)
    rows = []
    for place, item in enumerate(outcomes):
        if isinstance(item, Failed):  # tensors cannot represent errors of single images
            raise Refusal(422, f"image {place}: {item.reason}", "omit it, or use /v1/embed")
        rows.append(item)
    return np.stack(rows)
