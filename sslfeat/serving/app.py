"""The application: routes of ``/v1``, the page, health checks and metrics."""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from sslfeat import __version__
from sslfeat.data.decode import Content
from sslfeat.data.results import Failed
from sslfeat.errors import InputError
from sslfeat.evaluation.embedding_map import COLORS, GRAY
from sslfeat.evaluation.probing.predict import name_rows
from sslfeat.numerics.arrays import FloatArray
from sslfeat.reports.render import TEMPLATES
from sslfeat.serving import openapi
from sslfeat.serving.answers import Refusal, answer_to, broken_answer, embeddings_answer, error_answer, json_answer
from sslfeat.serving.asking import SearchBody, Wanted, vector_of
from sslfeat.serving.bodies import OF_JSON, decoded, media_type, read_images, read_model
from sslfeat.serving.browse import add_browse
from sslfeat.serving.collection import Generation
from sslfeat.serving.duplicates import DuplicatesPlan, add_duplicates
from sslfeat.serving.front import Front
from sslfeat.serving.inference_protocol import FILES, VERSION, add_inference_protocol
from sslfeat.serving.naming import add_naming
from sslfeat.serving.openai import add_openai
from sslfeat.serving.service import Service
from sslfeat.serving.thumbnails import LARGEST, SMALLEST

PAGE = Path(__file__).parent / "page"
SHARED = ("style.css", "view.js", "plane.js", "pixels.js")  # shared with self-contained pages
DIRECT = ("/v1/embed", "/v1/search")  # most frequent routes, handled without FastAPI
MEDIA = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8", ".svg": "image/svg+xml", ".png": "image/png", ".ico": "image/x-icon",
}  # fmt: skip
Size = Annotated[int, Query(ge=SMALLEST, le=LARGEST, description="px")]
Top = Annotated[int, Query(ge=1, le=1000, description="maximum number of classes per image, for single-label classifiers")]


def make_app(service: Service) -> ASGIApp:
    """The service as an ASGI application."""
    app = make_routes(service)
    direct = {
        (method, route.path): route.endpoint
        for route in app.routes
        if isinstance(route, APIRoute) and route.path in DIRECT
        for method in route.methods or ()
    }
    return Front(app, service, direct)


def make_routes(service: Service) -> FastAPI:
    """The routes of the service, as FastAPI application."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="sslfeat", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        redirect_slashes=False, description=openapi.ABOUT,
    )  # fmt: skip
    _add_errors(app)
    _add_states(app, service)
    _add_images(app, service)
    _add_index(app, service)
    add_naming(app, service)
    add_browse(app, service)
    add_duplicates(app, service, None if service.duplicates is None else DuplicatesPlan(service.duplicates))
    add_openai(app, service)
    add_inference_protocol(app, service)
    names = [service.identity.name, service.identity.name + FILES]
    openapi.name_models(app.openapi(), names, VERSION)
    _add_pages(app)
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    @app.exception_handler(InputError)
    async def refused(request: Request, error: Exception) -> Response:
        return answer_to(error) or error_answer(422, str(error))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return error_answer(error.status_code, str(error.detail), "see /docs", error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return error_answer(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:300], "see /docs")


def _add_states(app: FastAPI, service: Service) -> None:
    @app.get("/live", **openapi.STATE)
    async def live() -> Response:
        """Liveness: the process responds."""
        return json_answer({"live": True})

    @app.get("/ready", **openapi.STATE)
    async def ready() -> Response:
        """Readiness: 503 during shutdown."""
        return json_answer({"ready": service.ready}, 200 if service.ready else 503)

    @app.get("/metrics", **openapi.METRICS)
    async def metrics() -> Response:
        """Prometheus metrics."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/info", **openapi.INFO)
    async def info() -> Response:
        """Encoder, index, classifier and limits."""
        return json_answer(await service.in_pool(service.info))


def _add_images(app: FastAPI, service: Service) -> None:
    @app.post("/v1/embed", **openapi.EMBED)
    async def embed(request: Request) -> Response:
        """Embed one or more images."""
        service.batcher.check_room()
        images = await read_images(request, service.limits)
        outcomes = await service.embed(images)
        return embeddings_answer(outcomes, service.about_encoder, request.headers.get("accept", ""))

    @app.post("/v1/predict", **openapi.PREDICT)
    async def predict(request: Request, top: Top = 5) -> Response:
        """Classify images."""
        probe = service.probe()
        service.batcher.check_room()
        outcomes = await service.embed(await read_images(request, service.limits))
        good = [item for item in outcomes if not isinstance(item, Failed)]
        if not good:
            return broken_answer([item.reason for item in outcomes if isinstance(item, Failed)])
        named = name_rows(probe, [""] * len(good), np.stack(good), top)
        answers: list[dict[str, Any]] = []
        for item in outcomes:
            if isinstance(item, Failed):
                answers.append({"error": item.reason})
                continue
            found = next(named)
            pairs = zip(found.labels, found.probabilities, strict=True)
            answers.append({"labels": [{"label": label, "probability": value} for label, value in pairs]})
        return json_answer({"predictions": answers})


def _add_index(app: FastAPI, service: Service) -> None:
    @app.post("/v1/search", **openapi.SEARCH)
    async def search(request: Request) -> Response:
        """Find the nearest indexed images of an image, an indexed image, or a vector."""
        generation = service.generation(request)
        wanted = Wanted(request, service.limits)
        vector, own = None, -1
        if media_type(request)[0] in OF_JSON:
            body = await read_model(SearchBody, request, service.limits)
            wanted.override(body)
            wanted.check(generation)
            vector, own, images = _asked(body, service, generation)
        else:
            wanted.check(generation)
            service.batcher.check_room()
            images = await read_images(request, service.limits)
        if vector is None:
            if len(images) != 1:
                raise Refusal(422, f"{len(images)} images given", "search with one image")
            (outcome,) = await service.embed(images)
            if isinstance(outcome, Failed):
                return broken_answer([outcome.reason])
            vector = outcome
        began = time.perf_counter()
        look = functools.partial(generation.search, vector, wanted.top, wanted.where, wanted.min_score, own)
        hits, notes = await service.in_pool(look)
        service.metrics.stage("search", time.perf_counter() - began)
        return json_answer({"hits": hits, "notes": notes, "revision": generation.revision})

    @app.get("/v1/images/{row}", **openapi.IMAGE)
    async def image(request: Request, row: int, size: Size = 256) -> Response:
        """Thumbnail of an indexed image as JPEG, at most ``size`` x ``size`` px."""
        generation = service.generation(request)
        sha256 = generation.sha256[generation.row(row)]
        tag = f'"{sha256}-{size}"'
        caching = {"etag": tag, "cache-control": "private, no-cache"} if sha256 else {"cache-control": "no-store"}
        if sha256 and request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=caching)
        if service.thumbnails is None:
            raise Refusal(404, "no index is served", "start the service with --index INDEX")
        jpeg = await service.thumbnails.get(generation.paths[row], sha256, size)
        return Response(jpeg, headers=caching, media_type="image/jpeg")

    @app.get("/v1/map", **openapi.MAP)
    async def points(request: Request) -> Response:
        """2-d coordinates of the indexed images, at most 100,000."""
        return Response(await service.in_pool(service.generation(request).map), media_type="application/json")


def _asked(body: SearchBody, service: Service, generation: Generation) -> tuple[FloatArray | None, int, list[Content]]:
    """Query of a JSON body: a vector and its row (or -1), or an image. Raises Refusal."""
    given = [name for name in ("id", "path", "image", "vector") if getattr(body, name) is not None]
    if len(given) != 1:
        raise Refusal(422, f"{len(given)} of id, path, image and vector given", "give exactly one of them")
    if body.image is not None:
        return None, -1, [Content(decoded(body.image))]
    if body.vector is not None:
        return vector_of(body.vector, service.encoder.dim), -1, []
    row = generation.row_of(body.path) if body.path is not None else generation.row(body.id or 0)
    return generation.index.vectors([row])[0], row, []


def _add_pages(app: FastAPI) -> None:
    shared = [TEMPLATES / name for name in SHARED]
    files = {f"/{path.name}": path for path in (*sorted(PAGE.iterdir()), *shared) if path.suffix in MEDIA}
    contents = {
        ("/" if place == "/index.html" else place): (path.read_bytes(), MEDIA[path.suffix]) for place, path in files.items()
    }

    def add(place: str, body: bytes, kind: str) -> None:
        @app.get(place, include_in_schema=False)
        async def page() -> Response:
            return Response(body, media_type=kind, headers={"cache-control": "no-cache"})

    for place, (body, kind) in contents.items():
        add(place, body, kind)
    colors = f"export const COLORS = {json.dumps(COLORS)}, GRAY = {json.dumps(GRAY)};\n"
    add("/colors.js", colors.encode(), MEDIA[".js"])
    add("/docs", openapi.docs_page(app.openapi()), MEDIA[".html"])
