"""URLs on the command line: inputs are downloaded before a command runs, and outputs uploaded afterwards.

Commands only see local paths; in messages, the URL is printed instead (``console.py``).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from sslfeat.cli.console import call, note, progress, say
from sslfeat.cli.exits import BAD_INPUTS
from sslfeat.errors import UsageError
from sslfeat.storage.urls import is_remote

if TYPE_CHECKING:
    from sslfeat.features.copies import Copies
    from sslfeat.storage.staging import Staging

READ = {  # parameters that name folders: features, an index, output of a command
    "cluster": ("source",),
    "dedupe": ("source",),
    "index": ("source",),
    "info": ("path",),
    "map": ("source", "clusters"),
    "predict": ("probe",),
    "probe": ("train", "test"),
    "report": ("source",),
    "score": ("sources",),
    "push": ("features",),
    "search": ("place",),
    "serve": ("index", "classifier", "clusters"),
    "verify": ("path",),
}
WRITTEN = {"embed": "out", "index": "out", "repair": "folder"}
ENCODERS = {"encoder", "a", "b"}  # parameters that name encoder files
URLS = "sslfeat.urls"  # key of the URLs in the metadata of the parsed command line
_staging: Staging | None = None


class Command(TyperCommand):
    """A command whose parameters may be URLs."""

    work = ""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep URLs as written, since paths lose the double slash."""
        self.work = shlex.join([str(self.name), *args])
        values = [arg.partition("=")[2] if arg.startswith("-") else arg for arg in args]
        ctx.meta[URLS] = {key: value for value in values if is_remote(value) for key in (value, str(Path(value)))}
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command on local copies."""
        command, urls, params = str(self.name), ctx.meta[URLS], ctx.params
        if not urls:
            return super().invoke(ctx)
        target = WRITTEN.get(command, "")
        if url := urls.get(str(params.get(target))):
            params.pop(target)
        for name, value in params.items():
            if name in READ.get(command, ()):
                params[name] = _each(value, urls, lambda url: read(url, command))
            elif name in ENCODERS and command != "pull":
                params[name] = _each(value, urls, encoder)
            elif isinstance(value, Path) and str(value) in urls:
                raise UsageError(f"{urls[str(value)]}: 'sslfeat {command}' requires a local path for this argument")
        if not url:
            return super().invoke(ctx)
        with _written(url, command, params, self.work) as folder:
            if folder is None:
                return None
            params[target] = folder
            return super().invoke(ctx)


def read(url: str, command: str) -> str | Path:
    """Local copy of a folder or encoder file. Images for ``index`` and vector stores remain URLs."""
    from sslfeat.features.metadata import RUN_NAME
    from sslfeat.storage.mirror import localize
    from sslfeat.storage.remote import RemoteFolder
    from sslfeat.stores.registry import is_store

    if is_store(url):
        return url
    web = url.startswith(("http://", "https://"))
    if command == "index" and (web or RemoteFolder(url).object(RUN_NAME) is None):
        return url
    if web or url.endswith(".onnx"):
        return Path(encoder(url))
    with progress(1.0, "downloaded") as show:
        folder = localize(url, command == "verify", lambda done, total: show(done / max(1, total), _bytes(done, total)))
    call(folder, url)
    return folder


def encoder(url: str) -> str:
    """Local copy of an encoder file."""
    from sslfeat.inference.pulled import pull

    with progress(1.0, "downloaded") as show:
        path = pull(url, step=lambda done, total: show(done / max(1, total or done), _bytes(done, total)))
    call(path, url)
    return str(path)


def copies(overwrite: bool) -> Copies:
    """Copies of the parts written by ``sslfeat embed`` to an object store, if its output folder is there."""
    from sslfeat.features.copies import NO_COPIES

    if _staging is None:
        return NO_COPIES
    from sslfeat.features.remote import RemoteCopies

    return RemoteCopies(_staging.mirror, _staging.claim.hold, overwrite)


@contextmanager
def _written(url: str, command: str, params: dict[str, Any], work: str) -> Iterator[Path | None]:
    """Yield the folder to write, and upload it afterwards; None if only the upload of an earlier run was left."""
    global _staging
    from sslfeat.storage.staging import staged

    by_part = command == "embed" and not params.get("update")  # uploads continuously
    with staged(url, work, _wanted(command, params), _share(params.get("parts"))) as staging:
        if staging.finished:
            say(f"{url}: uploaded; an earlier run of this command completed it")
            yield None
            return
        call(staging.mirror.folder, url)
        _staging = staging if by_part else None
        ended: typer.Exit | None = None
        try:
            yield staging.mirror.folder
        except typer.Exit as error:
            if error.exit_code != BAD_INPUTS:
                raise
            ended = error
        finally:
            _staging = None
        if not by_part:
            note(f"uploading to {url}")
            staging.upload()
        staging.keep()
        if ended:
            raise ended


def _share(parts: str | None) -> str:
    """Name of the share of ``--parts K/N`` in claims; empty for all."""
    if not parts:
        return ""
    from sslfeat.engines.shares import Share

    return Share.parse(parts).name


def _wanted(command: str, params: dict[str, Any]) -> Callable[[str], bool]:
    """Predicate on names: whether the command needs this existing remote file."""
    from sslfeat.features.remote_begin import is_about
    from sslfeat.retrieval.metadata import META

    if command == "embed" and not params.get("update"):
        return is_about
    if command == "index" and not any(params.get(name) for name in ("add", "remove", "sync")):
        return lambda name: name == META and not params.get("overwrite")
    return lambda name: True


def _each(value: Any, urls: dict[str, str], change: Callable[[str], Any]) -> Any:
    if isinstance(value, list | tuple):
        return [_each(item, urls, change) for item in value]
    return type(value)(change(urls[str(value)])) if str(value) in urls else value


def _bytes(done: int, total: int | None) -> str:
    return f"{done / 1e6:.1f}/{total / 1e6:.1f} MB" if total else f"{done / 1e6:.1f} MB"
