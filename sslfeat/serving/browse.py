"""Browsing indexed images that meet conditions, page by page."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query, Request
from starlette.responses import Response

from sslfeat.serving import openapi
from sslfeat.serving.answers import json_answer
from sslfeat.serving.asking import check_conditions, conditions_of
from sslfeat.serving.service import Service

MOST = 1000  # images per page
Limit = Annotated[int, Query(ge=1, le=MOST, description="images per page")]
After = Annotated[int, Query(ge=-1, lt=1 << 62, description="id of the last image of the previous page; -1: first page")]
IMAGES = openapi.route(
    openapi.of_json(openapi.listed("images", "total", "next", "notes", "revision")), "400 401 403 404 409 422 503",
    None, [openapi.WHERE, openapi.REVISION],
)  # fmt: skip


def add_browse(app: FastAPI, service: Service) -> None:
    """Add the route."""

    @app.get("/v1/images", **IMAGES)
    async def images(request: Request, limit: Limit = 24, after: After = -1) -> Response:
        """List the indexed images that meet conditions, in the order of the index; ``next`` is ``after`` of the next page."""
        generation = service.generation(request)
        where = conditions_of(request, {"limit", "after", "where", "revision"})
        check_conditions(where, generation)
        return json_answer(await service.in_pool(lambda: generation.browse(tuple(where), after, limit)))
