"""What indexed images are called, by their ids: a map knows no more of them."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Request
from pydantic import Field
from starlette.responses import Response

from sslfeat.serving import openapi
from sslfeat.serving.answers import json_answer
from sslfeat.serving.bodies import StrictModel, read_model
from sslfeat.serving.service import Service

MOST = 100_000  # ids: all that a map has


class IdsBody(StrictModel):
    """``ids`` of indexed images."""

    ids: Annotated[list[int], Field(max_length=MOST)]


NAMES = openapi.route(
    openapi.of_json(openapi.listed("images")), "400 401 403 404 408 413 422 503",
    openapi.of_json(IdsBody.model_json_schema()),
)  # fmt: skip


def add_naming(app: FastAPI, service: Service) -> None:
    """The route."""

    @app.post("/v1/images", **NAMES)
    async def images(request: Request) -> Response:
        """Path and label of each of many indexed images."""
        generation = service.generation()
        rows = map(generation.row, (await read_model(IdsBody, request, service.limits)).ids)
        told = [{"id": row, "path": generation.paths[row], "label": generation.labels[row]} for row in rows]
        return json_answer({"images": told})
