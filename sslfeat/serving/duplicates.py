"""Review of duplicates found by ``sslfeat dedupe --json``, in pairs, and the decisions."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from pydantic import Field
from starlette.responses import Response

from sslfeat.dedup.decisions import Decision, decide, read_duplicates, write_duplicates
from sslfeat.dedup.near_duplicates import Copy
from sslfeat.serving import openapi
from sslfeat.serving.answers import Refusal, json_answer
from sslfeat.serving.bodies import OF_JSON, StrictModel, media_type, read_model
from sslfeat.serving.collection import Generation
from sslfeat.serving.service import Service

ENDING = ".decided.json"
MOST = 200_000


class DecisionBody(StrictModel):
    """Which of two images of a group to keep, by path."""

    left: str
    right: str
    keep: Literal["left", "right", "both"]


class DecisionsBody(StrictModel):
    """All decisions so far; they replace earlier ones."""

    decisions: Annotated[list[DecisionBody], Field(max_length=MOST)]


CODES = "400 401 403 404 408 413 415 422 503"
GET = openapi.route(openapi.of_json(openapi.listed("groups", "decisions")), "400 401 403 404 409 503", None, [openapi.REVISION])
POST = openapi.route(
    openapi.of_json(openapi.listed("plan", "moves", "command")), CODES, openapi.of_json(DecisionsBody.model_json_schema())
)  # fmt: skip


class DuplicatesPlan:
    """The groups of a file and the plan next to it. Raises InputError if the file is not from ``dedupe --json``."""

    def __init__(self, file: Path) -> None:
        self.found = read_duplicates(file)
        self.plan = file.with_name(file.name.removesuffix(".json") + ENDING)
        self.decisions: list[Decision] = []
        self._lock = threading.Lock()

    def about(self, generation: Generation) -> dict[str, Any]:
        """The groups with ids of indexed images, and the decisions so far."""
        rows = {path: row for row, path in enumerate(generation.paths) if not generation.index.removed[row]}

        def shown(copy: Copy) -> dict[str, Any]:
            facts = {name: getattr(copy, name) for name in ("path", "width", "height", "similarity", "verdict")}
            return {"id": rows.get(copy.path), **facts}

        groups = [{"kept": shown(group.kept), "copies": [shown(copy) for copy in group.copies]} for group in self.found.groups]
        return {"groups": groups, "decisions": [vars(decision) for decision in self.decisions]}

    def write(self, decisions: list[Decision]) -> dict[str, Any]:
        """Write the plan. Raises InputError for decisions that cannot be applied."""
        decided = decide(self.found, decisions)
        with self._lock:
            write_duplicates(self.plan, decided)
            self.decisions = decisions
        moves = sum(len(group.copies) for group in decided.groups)
        command = f"sslfeat dedupe --decided '{self.plan}' --apply FOLDER"
        return {"plan": str(self.plan), "moves": moves, "command": command}


def add_duplicates(app: FastAPI, service: Service, plan: DuplicatesPlan | None) -> None:
    """Add the routes."""

    @app.get("/v1/duplicates", **GET)
    async def duplicates(request: Request) -> Response:
        """Groups of duplicate images, and decisions about their pairs."""
        generation, found = service.generation(request), _given(plan)
        return json_answer(await service.in_pool(lambda: found.about(generation)))

    @app.post("/v1/duplicates", **POST)
    async def decided(request: Request) -> Response:
        """Write the plan for 'sslfeat dedupe --decided PLAN --apply FOLDER'; no files are moved here."""
        found = _given(plan)
        if media_type(request)[0] not in OF_JSON:
            raise Refusal(415, "the body is not JSON", "send application/json")
        body = await read_model(DecisionsBody, request, service.limits)
        decisions = [Decision(item.left, item.right, item.keep) for item in body.decisions]
        return json_answer(await asyncio.to_thread(found.write, decisions))


def _given(plan: DuplicatesPlan | None) -> DuplicatesPlan:
    if plan is None:
        raise Refusal(404, "no duplicates are served", "start the service with --duplicates, the .json of 'sslfeat dedupe'")
    return plan
