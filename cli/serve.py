"""``sslfeat serve``: an HTTP service for an encoder and an index."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sslfeat.cli.console import note, say, say_json
from sslfeat.cli.options import BatchSize, Provider, Threads
from sslfeat.errors import InputError

if TYPE_CHECKING:
    from sslfeat.serving.service import Service

KEY_VARIABLE = "SSLFEAT_API_KEY"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
LOCAL_NAMES = frozenset(("localhost", "127.0.0.1", "[::1]"))


def serve(
    encoder: Annotated[str | None, typer.Option(help="encoder file or name; default: that of the index or classifier")] = None,
    index: Annotated[Path | None, typer.Option(help="index folder to search")] = None,
    classifier: Annotated[Path | None, typer.Option(help="folder written by 'sslfeat probe --out'")] = None,
    map_file: Annotated[Path | None, typer.Option("--map", help="map written by 'sslfeat map --out map.parquet'")] = None,
    clusters: Annotated[Path | None, typer.Option(help="clusters written by 'sslfeat cluster': to color the map")] = None,
    duplicates: Annotated[Path | None, typer.Option(help="groups written by 'sslfeat dedupe' (.json), to review")] = None,
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0: all interfaces")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port; 0: any free port", min=0, max=65535)] = 8000,
    allow_host: Annotated[list[str] | None, typer.Option(help="host name accepted in requests; repeatable")] = None,
    api_key_file: Annotated[Path | None, typer.Option(help=f"file with the API key; default: ${KEY_VARIABLE}")] = None,
    provider: Provider = "auto",
    threads: Threads = 1,
    batch_size: BatchSize = None,
    batch_delay: Annotated[float, typer.Option(help="maximum wait to fill a batch, ms")] = 0.0,
    queue: Annotated[int, typer.Option(help="maximum number of waiting images; more are refused with status 429")] = 256,
    deadline: Annotated[float, typer.Option(help="time limit per request, s")] = 10.0,
    max_bytes: Annotated[int, typer.Option(help="maximum size of a request body, bytes")] = 20 << 20,
    max_images: Annotated[int, typer.Option(help="maximum number of images per request")] = 32,
    connections: Annotated[int, typer.Option(help="maximum number of open connections")] = 1000,
    first_byte: Annotated[float, typer.Option(help="time limit for the first byte of a request, s")] = 10.0,
    headers: Annotated[float, typer.Option(help="time limit for the headers, s")] = 10.0,
    body: Annotated[float, typer.Option(help="time limit for the body, s")] = 60.0,
    notice: Annotated[float, typer.Option(help="time after SIGTERM when /ready fails but requests are accepted, s")] = 1.0,
    drain: Annotated[float, typer.Option(help="time after --notice to complete accepted requests, s")] = 30.0,
    log_level: Annotated[Literal["debug", "info", "warning", "error"], typer.Option(help="minimum log level")] = "info",
    print_openapi: Annotated[bool, typer.Option("--print-openapi", help="print the OpenAPI schema and exit")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON; when the service is ready")] = False,
) -> None:  # fmt: skip
    """Serve embedding, search and prediction over HTTP, with a search page."""
    from sslfeat.system.cores import one_thread_each

    one_thread_each()
    from sslfeat.serving.needs import need_extra

    need_extra()
    from sslfeat.serving.lifecycle import listen
    from sslfeat.serving.lifecycle import serve as run
    from sslfeat.serving.limits import ServiceLimits
    from sslfeat.serving.logs import log_json
    from sslfeat.serving.service import Service, ServiceSources

    limits = ServiceLimits(
        batch_size=batch_size or 4, batch_delay=batch_delay / 1000, queue=queue, deadline=deadline, max_bytes=max_bytes,
        max_images=max_images, connections=connections, first_byte=first_byte, headers=headers, body=body, notice=notice,
        drain=drain, buffered=max(256 << 20, max_bytes),
    )  # fmt: skip
    sources = ServiceSources(encoder, index, classifier, map_file, clusters, duplicates, provider, threads)
    names = frozenset(name.lower() for name in allow_host or ()) | (LOCAL_NAMES if host in LOOPBACK else frozenset())
    service = Service(sources, limits, _key(api_key_file), names or None, batch_size is None)
    if print_openapi:
        import json

        from sslfeat.serving.app import make_routes

        say(json.dumps(make_routes(service).openapi(), indent=1))
        return
    log_json(log_level)
    with listen(host, port) as listener:
        name = f"[{host}]" if ":" in host else host
        place = f"http://{name}:{listener.getsockname()[1]}"
        run(service, listener, lambda: _ready(service, place, as_json))


def _ready(service: Service, url: str, as_json: bool) -> None:
    note(f"serving {service.about()} on {url}")
    if as_json:
        say_json("serve", {"url": url}, service.identity)


def _key(file: Path | None) -> str:
    """API key of the file or of the environment; empty: none. Raises InputError if the file has none."""
    if file is None:
        return os.environ.get(KEY_VARIABLE, "").strip()
    try:
        key = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the API key file {file} cannot be read: {error}") from error
    if not key:
        raise InputError(f"the API key file {file} is empty: write a key of at least 16 characters")
    return key
