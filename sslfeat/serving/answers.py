"""Responses: embeddings as JSON or ``.npy``, and errors with their cure."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from starlette.responses import Response

from sslfeat.data.results import Failed
from sslfeat.errors import InputError, ServeError
from sslfeat.numerics.arrays import FloatArray

NPY = "application/x-npy"
ERRORS_HEADER = "x-sslfeat-errors"
Outcome = FloatArray | Failed


class Refusal(ServeError):
    """A request rejected with HTTP ``status``, a message, and its ``cure``."""

    def __init__(self, status: int, message: str, cure: str = "", retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.cure = status, cure
        self.headers = {} if retry_after is None else {"retry-after": str(retry_after)}


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response; raises ValueError for NaN and infinity."""
    body = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    return Response(body, status, headers, "application/json")


def error_answer(status: int, message: str, cure: str = "", headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    """``{"error": message, "cure": cure}``, with additional fields ``more``."""
    return json_answer({"error": message, **({"cure": cure} if cure else {}), **more}, status, headers)


def answer_to(error: Exception) -> Response | None:
    """Response to an error of the client, or one that can be retried; None for other errors."""
    if isinstance(error, Refusal):
        return refusal_answer(error)
    return error_answer(422, str(error)) if isinstance(error, InputError) else None


def refusal_answer(refusal: Refusal) -> Response:
    """Response to a refusal."""
    return error_answer(refusal.status, str(refusal), refusal.cure, refusal.headers)


def json_numbers(row: FloatArray) -> str:
    """float32 (D,) as a JSON array with enough digits to be read back exactly."""
    return "[" + ",".join(["%.9g"] * len(row)) % tuple(row.tolist()) + "]"


def embeddings_answer(outcomes: Sequence[Outcome], encoder: Mapping[str, Any], accept: str) -> Response:
    """Embeddings in the order of the images, with errors of unreadable images in their place.

    JSON: ``{"encoder", "embeddings": [[D numbers] or null], "errors": [null or reason]}``. ``.npy``, where ``accept`` asks
    for it: float32 (N, D), a broken image's row NaN, and the reasons by position as JSON in the header x-sslfeat-errors. If
    none could be read the status is 422.
    """
    failed = {place: item.reason for place, item in enumerate(outcomes) if isinstance(item, Failed)}
    if len(failed) == len(outcomes):
        return broken_answer(list(failed.values()))
    if "npy" in accept or "application/octet-stream" in accept:
        return _npy(outcomes, failed, int(encoder["dim"]))
    parts = ["null" if isinstance(item, Failed) else json_numbers(item) for item in outcomes]
    errors = json.dumps([failed.get(place) for place in range(len(outcomes))])
    made_by = json.dumps({name: encoder[name] for name in ("name", "fingerprint", "dim")})
    body = f'{{"encoder":{made_by},"embeddings":[{",".join(parts)}],"errors":{errors}}}'
    return Response(body.encode(), media_type="application/json")


def broken_answer(reasons: Sequence[str]) -> Response:
    """Response if no image could be read."""
    cure = "send JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF files"
    return error_answer(422, reasons[0], cure, errors=list(reasons))


def _npy(outcomes: Sequence[Outcome], failed: Mapping[int, str], dim: int) -> Response:
    rows = np.full((len(outcomes), dim), np.nan, "<f4")
    for row, item in zip(rows, outcomes, strict=True):
        if not isinstance(item, Failed):
            row[:] = item
    headers = {ERRORS_HEADER: json.dumps(failed)} if failed else None
    return Response(_npy_header(rows.shape) + rows.tobytes(), headers=headers, media_type=NPY)


@functools.lru_cache(256)
def _npy_header(shape: tuple[int, ...]) -> bytes:
    """Header of a float32 .npy file, cached because writing it takes most of the time."""
    buffer = io.BytesIO()
    facts = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, facts)
    return buffer.getvalue()
