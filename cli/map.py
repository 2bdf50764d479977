"""``sslfeat map``: all images in one plane, those that are alike close together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sslfeat.cli.console import check_new, note, say, say_json
from sslfeat.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from sslfeat.evaluation.embedding_map import Map
    from sslfeat.features.reader import Features


def map_(
    folder: Annotated[Path, typer.Argument(metavar="FEATURES", help="features folder")],
    out: Annotated[Path, typer.Option(help="the files' name without its end: OUT.html, OUT.png")] = Path("map"),
    method: Annotated[str, typer.Option(help="pca, tsne or umap (extra: umap)")] = "pca",
    color: Annotated[str, typer.Option(help="label or cluster")] = "label",
    labels: Annotated[
        str, typer.Option(help="features (as embedded), folder, or a table with columns path and label")
    ] = "features",
    clusters: Annotated[Path, typer.Option(help="what 'sslfeat cluster' wrote, for --color cluster")] = Path("clusters"),
    limit: Annotated[int, typer.Option(help="images at most, a random choice of more")] = 10_000,
    side: Annotated[int, typer.Option(help="of the page's thumbnails, px")] = 40,
    png: Annotated[bool, typer.Option("--png/--no-png", help="an image of the map, too (extra: probe)")] = True,
    parquet: Annotated[bool, typer.Option("--parquet", help="a table, too: x, y, thumbnails, neighbors (OUT.parquet)")] = False,
    atlas: Annotated[bool, typer.Option("--atlas", help="write that table and open it in Embedding Atlas")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace OUT's files")] = False,
    seed: Annotated[int, typer.Option(help="of the choice, t-SNE and UMAP")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Map features into the plane: a page to look around in, and an image of it."""
    from sslfeat.evaluation.embedding_map import make_map
    from sslfeat.evaluation.probing.labels import check_finite
    from sslfeat.features.reader import Features
    from sslfeat.reports.embedding_atlas import open_atlas, write_table
    from sslfeat.reports.map_view import map_page
    from sslfeat.reports.render import write_page

    if not 8 <= side <= 256:
        raise UsageError(f"--side {side} is not from 8 to 256")
    features = Features.load(folder)
    check_finite(features.embeddings, features.paths)
    names = _names(features, color, labels, clusters)
    html, image, table = (Path(f"{out}.{end}") for end in ("html", "png", "parquet"))
    check_new(overwrite, html, image if png else None, table if parquet or atlas else None)
    found = make_map(features.embeddings, features.paths, names, method, limit, seed)
    write_page(html, map_page(f"Map of {folder.resolve().name}", about(found, features), found, side))
    written, left_out = {"html": html}, []
    if png:
        try:
            _png(image, found)
            written["png"] = image
        except MissingExtraError as error:
            left_out.append(f"{image}: {error}")
            note(f"left out: {left_out[-1]}")
    if parquet or atlas:
        write_table(table, found, features.embeddings)
        written["parquet"] = table
    if as_json:
        groups = {group.name: group.count for group in found.groups}
        files = {name: str(path) for name, path in written.items()}
        facts = {"method": method, "images": len(found.paths), "of": found.total, "groups": groups, "files": files}
        say_json({**facts, "left_out": left_out})
    else:
        say(f"{', '.join(map(str, written.values()))}: {about(found, features)}")
    if atlas:
        note("Embedding Atlas: Ctrl-C ends it")
        raise typer.Exit(open_atlas(written["parquet"]))


def about(found: Map, features: Features) -> str:
    """What the map shows, in a line."""
    chosen = f"{len(found.paths)} of {found.total}" if len(found.paths) < found.total else f"{found.total}"
    ways = {"pca": "the two main components", "tsne": "t-SNE", "umap": "UMAP"}
    return f"{chosen} images, {ways[found.method]} of the features of {features.run['encoder']['card']['name']}"


def _names(features: Features, color: str, labels: str, clusters: Path) -> list[str | None]:
    from sslfeat.evaluation.clustering.storage import read_clusters
    from sslfeat.evaluation.probing.labels import LabelSource

    if color == "cluster":
        return [None if name == "none" else f"cluster {name}" for name in read_clusters(clusters, features.paths)]
    if color != "label":
        raise UsageError(f"--color {color!r} is neither label nor cluster")
    found = LabelSource(labels).of(features)
    return [", ".join(label) if isinstance(label, tuple) else label for label in found]


def _png(path: Path, found: Map) -> None:
    from sslfeat.reports.plots import map_png
    from sslfeat.storage import atomic

    atomic.write_atomic(path, map_png(found))
