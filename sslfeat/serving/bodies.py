"""Images from request bodies: raw, multipart, or base64 in JSON; limits are checked while reading.

Bodies of rejected requests are not read, and none is read beyond its limits. Bodies contain bytes, never names
of resources to fetch.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import AsyncIterator
from typing import Annotated, TypeVar

from multipart import MultipartError, ParserLimitReached, PushMultipartParser, parse_options_header
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from starlette.requests import Request

from sslfeat.data.decode import Content
from sslfeat.serving.answers import Refusal
from sslfeat.serving.limits import Hold, ServiceLimits

FIELD = "images"
KINDS = "send image/*, multipart/form-data with the field 'images', or application/json"
OF_JSON = ("application/json",)
M = TypeVar("M", bound=BaseModel)
Base64 = Annotated[str, StringConstraints(min_length=1)]


class StrictModel(BaseModel):
    """JSON model that rejects unknown fields."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ImagesBody(StrictModel):
    """``images``, or one ``image``, in base64."""

    images: list[Base64] = []
    image: Base64 | None = None


def media_type(request: Request, default: str = "") -> tuple[str, dict[str, str]]:
    """Content-Type in lower case, and its parameters. Raises Refusal, 415, for compressed bodies and missing types."""
    if request.headers.get("content-encoding", "identity").lower() not in ("identity", ""):
        raise Refusal(415, "compressed bodies are not read", "send it without Content-Encoding")
    found: tuple[str, dict[str, str]] = parse_options_header(request.headers.get("content-type", default))
    if not found[0]:
        raise Refusal(415, "there is no Content-Type", KINDS)
    return found


async def chunks(request: Request, limits: ServiceLimits) -> AsyncIterator[bytes]:
    """Yield the body in chunks. Raises Refusal: 413 beyond ``max_bytes``, 503 if all bodies together are too large."""
    stated = request.headers.get("content-length", "0")
    if not stated.isdecimal() or len(stated) > 18 or int(stated) > limits.max_bytes:
        raise _too_large(limits)
    hold: Hold = request.state.hold
    came = 0
    began = time.perf_counter()
    async for chunk in request.stream():
        came += len(chunk)
        if came > limits.max_bytes:
            raise _too_large(limits)
        hold.take(len(chunk))
        yield chunk
    request.state.received = time.perf_counter() - began
    request.state.bytes = came


async def read_body(request: Request, limits: ServiceLimits) -> bytes:
    """Read the whole body. Raises Refusal as ``chunks``."""
    return b"".join([chunk async for chunk in chunks(request, limits)])


async def read_images(request: Request, limits: ServiceLimits) -> list[Content]:
    """Read the images of a request, 1 to ``max_images``. Raises Refusal: 413, 415, 422, 503."""
    kind, parameters = media_type(request)
    if kind.startswith("image/") or kind == "application/octet-stream":
        images = [await read_body(request, limits)]
    elif kind == "multipart/form-data":
        images = await _of_multipart(request, limits, parameters.get("boundary", ""))
    elif kind in OF_JSON:
        images = images_of(await read_model(ImagesBody, request, limits), limits)
    else:
        raise Refusal(415, f"unsupported content type {kind[:60]!r}", KINDS)
    if not images or not all(images):
        raise Refusal(422, "an image is empty" if images else "no image given", KINDS)
    return [Content(image) for image in images]


def images_of(body: ImagesBody, limits: ServiceLimits) -> list[bytes]:
    """Images of a JSON body. Raises Refusal: 413, 422."""
    texts = [*body.images, *([] if body.image is None else [body.image])]
    if len(texts) > limits.max_images:
        raise _too_many(limits)
    return [decoded(text) for text in texts]


def decoded(text: str) -> bytes:
    """Decode base64. Raises Refusal, 422."""
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise Refusal(422, "an image is not valid base64", "encode the bytes of the file in standard base64") from error


async def read_model(kind: type[M], request: Request, limits: ServiceLimits) -> M:
    """Read a JSON body as a model. Raises Refusal, 422, naming the invalid field."""
    return parse_model(kind, await read_body(request, limits))


def parse_model(kind: type[M], body: bytes) -> M:
    """Parse bytes as a model. Raises Refusal, 422."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:100] or "the body"
        raise Refusal(422, f"{where}: {first['msg'][:200]}", "see /docs") from error


async def _of_multipart(request: Request, limits: ServiceLimits, boundary: str) -> list[bytes]:
    images: list[bytes] = []
    parts: list[bytes] = []
    try:
        parser = PushMultipartParser(boundary, max_segment_count=limits.max_images, strict=True)
        async for chunk in chunks(request, limits):
            for event in parser.parse(chunk) if chunk else ():
                if event is None:
                    images.append(b"".join(parts))
                elif isinstance(event, bytes | bytearray):
                    parts.append(bytes(event))
                elif event.name != FIELD:
                    raise Refusal(422, f"unknown field {event.name[:60]!r}", f"send images as fields {FIELD!r}")
                else:
                    parts = []
        parser.close()
    except ParserLimitReached as error:
        raise _too_many(limits) from error
    except (MultipartError, ValueError) as error:  # ValueError: invalid boundary
        raise Refusal(422, f"the multipart body is damaged: {str(error)[:100]}", KINDS) from error
    return images


def _too_large(limits: ServiceLimits) -> Refusal:
    return Refusal(413, f"the body is larger than {limits.max_bytes} bytes", "send fewer or smaller images")


def _too_many(limits: ServiceLimits) -> Refusal:
    return Refusal(413, f"more than {limits.max_images} images given", "send them in several requests")
