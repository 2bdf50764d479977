"""Packages required by the service."""

from __future__ import annotations

from importlib.util import find_spec

from sslfeat.errors import MissingExtraError

PACKAGES = {
    "fastapi": "fastapi",
    "httptools": "httptools",
    "multipart": "multipart",
    "prometheus_client": "prometheus-client",
    "uvicorn": "uvicorn",
}


def need_extra() -> None:
    """Raise MissingExtraError if a package of the extra ``serve`` is not installed."""
    for module, package in PACKAGES.items():
        if find_spec(module) is None:
            raise MissingExtraError("serve", package)
