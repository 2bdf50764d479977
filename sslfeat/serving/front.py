"""Middleware of all requests: authorization, response headers, logs and metrics."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sslfeat.errors import SslfeatError
from sslfeat.serving.answers import Refusal, answer_to, error_answer, refusal_answer
from sslfeat.serving.limits import Hold
from sslfeat.serving.service import Service

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
OPEN = ("/live", "/ready", "/v2/health/live", "/v2/health/ready")  # without a key, and with any Host
Handler = Callable[[Request], Awaitable[Response]]
CLIENT_GONE = 499  # only in logs and metrics
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
logger = logging.getLogger(__name__)


@dataclass
class Visit:
    """A request: its id, start time, and response status (0: not started)."""

    id: str
    began: float = field(default_factory=time.perf_counter)
    status: int = 0


class Front:
    """ASGI application around the routes."""

    def __init__(self, app: ASGIApp, service: Service, direct: Mapping[tuple[str, str], Handler]) -> None:
        """``direct``: handlers by method and path, called without FastAPI, whose overhead is as long as the handler itself."""
        self._app, self._service, self._direct = app, service, direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        visit = Visit(given if REQUEST_ID.fullmatch(given) else os.urandom(8).hex())
        state = scope.setdefault("state", {})
        hold = state["hold"] = Hold(self._service.buffers)
        connection = state.pop("connection", None)
        if connection is not None:
            connection.running = asyncio.current_task()

        async def framed(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *SECURITY, (b"x-request-id", visit.id.encode())]
                if self._service.draining:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        self._service.metrics.connections.inc()
        try:
            await self._answer(scope, receive, framed, headers, visit)
        except (asyncio.CancelledError, ClientDisconnect):
            if connection is None or connection.lost or visit.status:
                visit.status = visit.status or CLIENT_GONE
            else:  # the drain time is over
                await error_answer(503, "the service is shutting down", "use another instance")(scope, receive, framed)
        finally:
            hold.release()
            self._service.metrics.connections.dec()
            if connection is not None:
                connection.running = None
            self._record(scope, visit)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, headers: Headers, visit: Visit) -> None:
        refused = self._refused(scope, headers)
        handler = self._direct.get((scope["method"], scope["path"]))
        try:
            if refused is not None:
                await refused(scope, receive, send)
            elif handler is None:
                await self._app(scope, receive, send)
            else:
                await (await _handled(handler, Request(scope, receive)))(scope, receive, send)
        except ClientDisconnect:
            raise
        except Exception:
            logger.exception("a request failed", extra={"fields": {"request_id": visit.id}})
            if visit.status:
                raise
            answer = error_answer(500, "the service failed", "its log says why", request_id=visit.id)
            await answer(scope, receive, send)

    def _refused(self, scope: Scope, headers: Headers) -> Response | None:
        """Response to a rejected request; None if it is accepted."""
        hosts = headers.getlist("host")
        if len(hosts) != 1:
            return error_answer(400, f"there are {len(hosts)} Host headers", "send one")
        known = self._service.hosts is None or scope["path"] in OPEN or _name(hosts[0]) in self._service.hosts
        if not known:
            return error_answer(403, "this service is not called by that name", "name it with --allow-host")
        origin = headers.get("origin")
        if origin is not None and scope["method"] != "GET" and origin.partition("://")[2] != hosts[0]:
            return error_answer(403, "pages of other sites may not ask here", "ask from a program, or the page at /")
        if scope["path"] not in OPEN and self._service.locked and not self._service.knows(_key(headers)):
            challenge = {"www-authenticate": 'Basic realm="sslfeat", charset="UTF-8"'}
            return error_answer(401, "missing or wrong API key", "send Authorization: Bearer KEY", challenge)
        if self._service.closing and scope["path"] not in OPEN:
            return refusal_answer(Refusal(503, "the service is shutting down", "use another instance", retry_after=1))
        return None

    def _record(self, scope: Scope, visit: Visit) -> None:
        seconds = time.perf_counter() - visit.began
        direct = (scope["method"], scope["path"]) in self._direct
        route = scope["path"] if direct else getattr(scope.get("route"), "path", "other")
        state = scope["state"]
        self._service.metrics.request(route, scope["method"], visit.status, seconds)
        if "received" in state:
            self._service.metrics.stage("receive", state["received"])
        if logger.isEnabledFor(logging.INFO):
            fields = {
                "request_id": visit.id,
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": visit.status,
                "ms": round(1000 * seconds, 2),
                "bytes": state.get("bytes", 0),
            }
            logger.info("request", extra={"fields": fields})


async def _handled(handler: Handler, request: Request) -> Response:
    """Response of a handler, or to its error if the client caused it."""
    try:
        return await handler(request)
    except SslfeatError as error:
        answer = answer_to(error)
        if answer is None:
            raise
        return answer


def _name(host: str) -> str:
    """Host name of a Host header, without the port."""
    return (host.rpartition(":")[0] if re.search(r":\d*$", host) else host).lower()


def _key(headers: Headers) -> str:
    """API key of a request: bearer token, X-API-Key, or basic authentication password (browsers)."""
    kind, _, rest = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return rest.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(rest, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return headers.get("x-api-key", "")
