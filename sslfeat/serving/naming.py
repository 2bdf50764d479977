"""Paths and metadata of indexed images by id, as needed by the map, and ids by path."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Request
from pydantic import Field
from starlette.responses import Response

from sslfeat.serving import openapi
from sslfeat.serving.answers import json_answer
from sslfeat.serving.bodies import StrictModel, read_model
from sslfeat.serving.service import Service

MOST = 100_000  # maximum number of ids: all points of a map
MOST_PATHS = 100  # maximum number of paths, each searched in the whole index


class NamesBody(StrictModel):
    """``ids`` of indexed images, ``paths`` of others."""

    ids: Annotated[list[int], Field(max_length=MOST, default_factory=list)]
    paths: Annotated[list[str], Field(max_length=MOST_PATHS, default_factory=list)]


NAMES = openapi.route(
    openapi.of_json(openapi.listed("images", "revision")), "400 401 403 404 408 409 413 422 503",
    openapi.of_json(NamesBody.model_json_schema()), [openapi.REVISION],
)  # fmt: skip


def add_naming(app: FastAPI, service: Service) -> None:
    """The route."""

    @app.post("/v1/images", **NAMES)
    async def images(request: Request) -> Response:
        """Id, path, label and metadata of indexed images."""
        generation = service.generation(request)
        body = await read_model(NamesBody, request, service.limits)
        rows = [*map(generation.row, body.ids), *map(generation.row_of, body.paths)]
        return json_answer({"images": await service.in_pool(lambda: generation.told(rows)), "revision": generation.revision})
