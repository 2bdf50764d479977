"""OpenAPI descriptions of the routes, and the self-contained page ``/docs``."""

from __future__ import annotations

import html
from typing import Any

from starlette.responses import Response

from sslfeat.serving.asking import SearchBody
from sslfeat.serving.bodies import ImagesBody

ABOUT = "HTTP service of an image encoder and an image index."
ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}, "cure": {"type": "string"}},
}
ERRORS = {
    "400": "malformed request",
    "401": "missing or wrong API key",
    "403": "request for another host name, or from another site",
    "404": "not found, or not served",
    "408": "request timeout",
    "409": "ids of an earlier revision of the index",
    "413": "too large, or too many images",
    "415": "unsupported content type",
    "422": "invalid parameters, or no readable image",
    "429": "the queue is full: retry after Retry-After",
    "503": "deadline exceeded, or shutting down",
}
BINARY = {"schema": {"type": "string", "format": "binary"}}
NUMBERS = {"type": "array", "items": {"type": "number"}}
MULTIPART = {
    "schema": {
        "type": "object",
        "required": ["images"],
        "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}},
    }
}


def responses(good: Any, *codes: str) -> dict[str, Any]:
    """Responses of a route: success and errors."""
    found: dict[str, Any] = {"200": {"description": "done", "content": good}}
    for code in codes:
        found[code] = {"description": ERRORS[code], "content": {"application/json": {"schema": ERROR_SCHEMA}}}
    return found


def route(good: Any, codes: str, body: Any = None, parameters: Any = None, tag: str = "v1") -> dict[str, Any]:
    """Options of a FastAPI route, with these descriptions."""
    extra: dict[str, Any] = {}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": body}
    if parameters is not None:
        extra["parameters"] = parameters
    found = {"response_class": Response, "response_model": None, "tags": [tag]}
    return {**found, "openapi_extra": extra, "responses": responses(good, *codes.split())}


def of_json(schema: dict[str, Any]) -> dict[str, Any]:
    """JSON content of a schema, with references resolved."""
    return {"application/json": {"schema": _resolved(schema, schema.get("$defs", {}))}}


def _resolved(value: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_resolved(item, definitions) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return _resolved(definitions[value["$ref"].rpartition("/")[2]], definitions)
    return {name: _resolved(item, definitions) for name, item in value.items() if name != "$defs"}


def name_models(schema: dict[str, Any], names: list[str], version: str) -> None:
    """Add the names of the served models to the schema."""
    for methods in schema["paths"].values():
        for about in methods.values():
            for item in about.get("parameters", ()):
                if item["in"] == "path" and item["name"] in ("name", "version"):
                    item["schema"]["enum"] = names if item["name"] == "name" else [version]


def listed(*fields: str) -> dict[str, Any]:
    """Schema of an object with these fields."""
    return {"type": "object", "required": list(fields)}


def parameter(name: str, schema: dict[str, Any], about: str) -> dict[str, Any]:
    """A query parameter."""
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": about}


IMAGES = {"image/*": BINARY, "multipart/form-data": MULTIPART, **of_json(ImagesBody.model_json_schema())}
IMAGE_ERRORS = "400 401 403 408 413 415 422 429 503"
EMBEDDINGS = {
    "type": "object",
    "required": ["encoder", "embeddings", "errors"],
    "properties": {
        "encoder": listed("name", "fingerprint", "dim"),
        "embeddings": {"type": "array", "items": {"anyOf": [NUMBERS, {"type": "null"}]}},
        "errors": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
    },
}
HITS = {
    "type": "object",
    "required": ["hits", "notes", "revision"],
    "properties": {"hits": {"type": "array", "items": listed("id", "path", "score", "label", "metadata")}},
}
REVISION = parameter(
    "revision", {"type": "string"}, "revision of the index that ids belong to (see /v1/info); 409 if it has changed"
)
WHERE = parameter(
    "where",
    {"type": "array", "items": {"type": "string"}},
    "condition: label=TEXT, path~GLOB, FIELD>=NUMBER or DATE; != and !~ negate",
)
ASKED = [
    parameter("top", {"type": "integer", "minimum": 1, "default": 24}, "maximum number of hits"),
    WHERE,
    parameter("min_score", {"type": "number"}, "minimum score of hits"),
    REVISION,
]

STATE = route(of_json({"type": "object"}), "400 403 503", tag="state")
METRICS = route({"text/plain": {"schema": {"type": "string"}}}, "400 401 403", tag="state")
INFO = route(of_json(listed("encoder", "index", "classifier", "limits")), "400 401 403 503")
EMBED = route({**of_json(EMBEDDINGS), "application/x-npy": BINARY}, IMAGE_ERRORS, IMAGES)
PREDICT = route(of_json(listed("predictions")), "404 " + IMAGE_ERRORS, IMAGES)
SEARCH = route(
    of_json(HITS), "404 409 " + IMAGE_ERRORS, {**IMAGES, **of_json(SearchBody.model_json_schema())}, ASKED
)  # fmt: skip
IMAGE = route({"image/jpeg": BINARY}, "400 401 403 404 409 422 429 503", None, [REVISION])
POINTS = of_json(listed("ids", "x", "y", "label", "labels", "cluster", "clusters"))
MAP = route(POINTS, "400 401 403 404 409 503", None, [REVISION])


def docs_page(schema: dict[str, Any]) -> bytes:
    """HTML page of the routes."""
    parts = []
    for path, methods in schema["paths"].items():
        for method, about in methods.items():
            bodies = ", ".join(about.get("requestBody", {}).get("content", {}))
            names = ", ".join(item["name"] for item in about.get("parameters", []))
            lines = [about.get("description", about.get("summary", ""))]
            lines += [f"Parameters: {names}"] if names else []
            lines += [f"Body: {bodies}"] if bodies else []
            lines += [f"Answers: {', '.join(sorted(about['responses']))}"]
            text = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
            parts.append(f"<section><h2>{method.upper()} {html.escape(path)}</h2>{text}</section>")
    errors = "".join(f"<li>{code}: {html.escape(text)}</li>" for code, text in ERRORS.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>sslfeat: the service</title>'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        '<link rel="stylesheet" href="/style.css"></head><body>'
        f'<h1>sslfeat {html.escape(schema["info"]["version"])}</h1><p>{html.escape(ABOUT)} <a href="/openapi.json">'
        f"OpenAPI schema</a></p>{''.join(parts)}<h2>Errors</h2><ul>{errors}</ul></body></html>"
    ).encode()
