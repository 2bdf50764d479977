"""``sslfeat pull``: download and verify an encoder file."""

from __future__ import annotations

from typing import Annotated

import typer

from sslfeat.cli.console import progress, say, say_json
from sslfeat.cli.options import Json


def pull(
    name: Annotated[
        str, typer.Argument(metavar="NAME|URL", help="name from 'sslfeat models', hf://OWNER/REPO/FILE.onnx, or any URL")
    ],
    sha256: Annotated[str, typer.Option(help="expected SHA-256 of the file; default: not checked")] = "",
    offline: Annotated[bool, typer.Option("--offline", help="use only the cache, do not download")] = False,
    as_json: Json = False,
) -> None:
    """Download an encoder file, verify it, and cache it. --encoder accepts the same name or URL."""
    import os

    from sslfeat.inference import pulled
    from sslfeat.inference.onnx_model import read_encoder_file
    from sslfeat.storage.cache import OFFLINE

    if offline:
        os.environ[OFFLINE] = "1"
    with progress(1.0, "downloaded") as show:

        def step(done: int, total: int | None) -> None:
            show(done / max(1, total or done), f"{done / 1e6:.1f}{f'/{total / 1e6:.1f}' if total else ''} MB")

        path = pulled.pull(name, sha256, step)
    file = read_encoder_file(path)
    card = file.card
    if as_json:
        facts = {"path": str(path), "bytes": len(file.data), "sha256": file.sha256, "dim": card.dim, "license": card.license}
        say_json("pull", facts, file.identity)
        return
    say(f"{name}: {card.name}, {card.dim}-d, license {card.license}, {len(file.data) / 1e6:.1f} MB")
    say(f"sha256 {file.sha256}")
    say(f"use it with --encoder {name}")
