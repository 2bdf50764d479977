"""OpenAI-compatible ``POST /v1/embeddings``: images as data URLs, and errors in OpenAI's format."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from pydantic import Field
from starlette.responses import Response

from sslfeat.data.decode import Content
from sslfeat.data.results import Failed
from sslfeat.serving import openapi
from sslfeat.serving.answers import Outcome, Refusal, json_answer, json_numbers
from sslfeat.serving.bodies import OF_JSON, StrictModel, decoded, media_type, read_model
from sslfeat.serving.service import Service

DATA_URL = "data:image/"
BASE64 = ";base64"


class EmbeddingsBody(StrictModel):
    """Request of OpenAI clients; ``input`` are data URLs of images."""

    input: str | Annotated[list[str], Field(min_length=1)]
    model: str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


OPENAI = openapi.route(
    openapi.of_json(openapi.listed("object", "data", "model", "usage")), "404 " + openapi.IMAGE_ERRORS,
    openapi.of_json(EmbeddingsBody.model_json_schema()), tag="OpenAI",
)  # fmt: skip
ERROR = {"type": "object", "required": ["error"], "properties": {"error": openapi.listed("message", "type", "code")}}
for _code, _answer_of in OPENAI["responses"].items():
    if _code in ("404", "413", "415", "422", "429", "503"):  # other errors are answered before this route
        _answer_of["content"] = openapi.of_json(ERROR)


def add_openai(app: FastAPI, service: Service) -> None:
    """Add the route."""

    @app.post("/v1/embeddings", **OPENAI)
    async def embeddings(request: Request) -> Response:
        """Embed images, with a response in OpenAI's format."""
        try:
            service.batcher.check_room()
            if media_type(request)[0] not in OF_JSON:
                raise Refusal(415, "the body is not JSON", "send application/json")
            body = await read_model(EmbeddingsBody, request, service.limits)
            outcomes = await service.embed(_images(body, service))
            return _answer(outcomes, body, service)
        except Refusal as error:
            kind = "rate_limit_error" if error.status == 429 else "invalid_request_error"
            message = f"{error}: {error.cure}" if error.cure else str(error)
            told = {"message": message, "type": kind, "param": None, "code": str(error.status)}
            return json_answer({"error": told}, error.status, error.headers)


def _images(body: EmbeddingsBody, service: Service) -> list[Content]:
    texts = [body.input] if isinstance(body.input, str) else body.input
    name, dim = service.identity.name, service.encoder.dim
    if body.model != name:
        raise Refusal(404, f"the model {body.model[:60]!r} is not served", f"use {name!r}")
    if body.dimensions not in (None, dim):
        raise Refusal(422, f"embeddings cannot have {body.dimensions} dimensions", f"omit dimensions, or give {dim}")
    if len(texts) > service.limits.max_images:
        raise Refusal(413, f"more than {service.limits.max_images} images given", "send them in several requests")
    return [Content(_content(text, place)) for place, text in enumerate(texts)]


def _content(text: str, place: int) -> bytes:
    head, comma, data = text.partition(",")
    if not (comma and head.startswith(DATA_URL) and head.endswith(BASE64) and data):
        cure = "send 'data:image/jpeg;base64,...': texts are not embedded, and addresses are not fetched"
        raise Refusal(422, f"input {place} is not an image as data URL", cure)
    return decoded(data)


def _answer(outcomes: list[Outcome], body: EmbeddingsBody, service: Service) -> Response:
    """Response; the first error if any, since the format cannot represent errors of single images."""
    parts = []
    for place, item in enumerate(outcomes):
        if isinstance(item, Failed):
            raise Refusal(422, f"input {place}: {item.reason}", "omit it, or use /v1/embed")
        number = json_numbers(item)
        if body.encoding_format == "base64":
            number = '"' + base64.b64encode(item.astype("<f4").tobytes()).decode() + '"'
        parts.append(f'{{"object":"embedding","index":{place},"embedding":{number}}}')
    usage: dict[str, Any] = {"prompt_tokens": 0, "total_tokens": 0}
    end = json_answer({"object": "list", "model": service.identity.name, "usage": usage}).body
    return Response(bytes(end)[:-1] + b',"data":[' + ",".join(parts).encode() + b"]}", media_type="application/json")
