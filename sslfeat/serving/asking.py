"""Search parameters, from the query string or a JSON body."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import BeforeValidator, Field, StringConstraints
from starlette.requests import Request

from sslfeat.errors import SslfeatError
from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval.filters import Filter
from sslfeat.serving.answers import Refusal
from sslfeat.serving.bodies import Base64, StrictModel
from sslfeat.serving.collection import Generation
from sslfeat.serving.limits import ServiceLimits

TOP = 24
MOST_CONDITIONS = 16
Condition = Annotated[str, StringConstraints(max_length=500)]
Conditions = Annotated[
    list[Condition],
    Field(max_length=MOST_CONDITIONS),
    BeforeValidator(
        lambda given: [given] if isinstance(given, str) else given,
        Condition | Annotated[list[Condition], Field(max_length=MOST_CONDITIONS)],
    ),
]


class SearchBody(StrictModel):
    """A query: exactly one of ``id`` and ``path`` (of an indexed image), ``image`` (base64) and ``vector``."""

    id: int | None = None
    path: str | None = None
    image: Base64 | None = None
    vector: list[float] | None = None
    top: Annotated[int, Field(ge=1)] | None = None
    where: Conditions | None = None
    min_score: float | None = None


class Wanted:
    """Number of hits and conditions."""

    def __init__(self, request: Request, limits: ServiceLimits) -> None:
        """Parse the query string. Raises Refusal, 422."""
        self._limits = limits
        self.where = conditions_of(request, {"top", "where", "min_score", "revision"})
        top, score = request.query_params.get("top", str(TOP)), request.query_params.get("min_score", "")
        self.top = self._checked(int(top) if top.isdecimal() and len(top) < 10 else -1)
        self.min_score: float | None = None
        if score:
            try:
                self.min_score = float(score)
            except ValueError as error:
                raise Refusal(422, f"min_score {score[:60]!r} is not a number", "give a number, or omit it") from error
            if not math.isfinite(self.min_score):
                raise Refusal(422, "min_score is not finite", "give a number, or omit it")

    def override(self, body: SearchBody) -> None:
        """Override the query string with a JSON body. Raises Refusal, 422."""
        if body.top is not None:
            self.top = self._checked(body.top)
        if body.where is not None:
            self.where = body.where
        if body.min_score is not None:
            self.min_score = body.min_score

    def check(self, generation: Generation) -> None:
        """Raise Refusal, 422, for invalid conditions, before anything is embedded."""
        check_conditions(self.where, generation)

    def _checked(self, top: int) -> int:
        if not 1 <= top <= self._limits.max_top:
            raise Refusal(422, "top is not allowed", f"give 1 to {self._limits.max_top}")
        return top


def conditions_of(request: Request, known: set[str]) -> list[str]:
    """The conditions ``where`` of a query string with parameters ``known``. Raises Refusal, 422."""
    if other := set(request.query_params) - known:
        raise Refusal(422, f"unknown parameter {min(other)[:60]!r}", f"the parameters are {', '.join(sorted(known))}")
    where = request.query_params.getlist("where")
    if len(where) > MOST_CONDITIONS or any(len(text) > 500 for text in where):
        raise Refusal(422, "too many or too long conditions", f"at most {MOST_CONDITIONS} of 500 characters")
    return where


def check_conditions(where: Sequence[str], generation: Generation) -> None:
    """Raise Refusal, 422, for invalid conditions."""
    try:
        Filter(where).met(generation.index.columns.slice(0, 0))
    except SslfeatError as error:
        raise Refusal(422, str(error).replace("--where", "where"), "see /docs") from error


def vector_of(numbers: list[float], dim: int) -> FloatArray:
    """float32 (D,). Raises Refusal, 422."""
    vector = np.array(numbers, np.float64)
    if vector.shape != (dim,):
        raise Refusal(422, f"the vector has {vector.size} numbers", f"vectors of this encoder have {dim}")
    if np.abs(vector).max() > np.finfo(np.float32).max:
        raise Refusal(422, "a number of the vector is too large", "vectors are float32")
    return vector.astype(np.float32)
