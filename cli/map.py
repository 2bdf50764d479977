"""``sslfeat map``: 2-d projection of features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sslfeat.cli.console import check_files, measured, note, say, say_json
from sslfeat.cli.options import FeaturesSource, Json, Labels, Limit, Overwrite, ProjectionMethod, Seed
from sslfeat.cli.sources import end_with, sought
from sslfeat.errors import MissingExtraError

if TYPE_CHECKING:
    from sslfeat.evaluation.embedding_map import Map
    from sslfeat.features.reader import Features

ENDINGS = (".html", ".png", ".parquet")
FILES, TABLE = (Path("map.html"), Path("map.png")), Path("map.parquet")


def map_(
    source: FeaturesSource,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            help="output: .html, .png or .parquet (x, y, thumbnails, neighbors); default: map.html, map.png; repeatable"
        ),
    ] = None,
    projection: ProjectionMethod = "pca",
    color: Annotated[
        str, typer.Option(metavar="<label|cluster|COLUMN>", help="attribute to color by: labels, clusters, a metadata column")
    ] = "label",
    labels: Labels = "features",
    clusters: Annotated[Path, typer.Option(help="clusters written by 'sslfeat cluster': for --color cluster")] = Path("clusters"),
    limit: Limit = 10_000,
    side: Annotated[int, typer.Option(help="size of thumbnails on the page, px", min=8, max=256)] = 40,
    atlas: Annotated[bool, typer.Option("--atlas", help="open the map in Embedding Atlas")] = False,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Project features to two dimensions, and write an interactive page and an image."""
    from sslfeat.evaluation.clustering.storage import clusters_by_path
    from sslfeat.evaluation.embedding_map import check_map, make_map
    from sslfeat.evaluation.probing.labels import LabelSource, check_finite
    from sslfeat.features.reader import Features
    from sslfeat.reports.embedding_atlas import find_atlas, open_atlas

    files = out or list(FILES)
    if atlas and not any(file.suffix == ".parquet" for file in files):
        files.append(TABLE)
    check_files(overwrite, files, ENDINGS)
    program = find_atlas() if atlas else ""
    (wanted,) = sought(source)
    check_map(wanted.shape()[0], projection, limit)
    if color == "cluster":
        clusters_by_path(clusters)
    elif color != "label":
        wanted.check_color(color)
    else:
        wanted.check_labels(LabelSource(labels))
    folder, failed = wanted.folder, wanted.make()
    features = Features.load(folder)
    check_finite(features.embeddings, features.paths)
    names, scale = _names(folder, features, color, labels, clusters)
    with measured(projection == "tsne") as step:
        found = make_map(features.embeddings, features.paths, names, projection, limit, seed, step, scale, color)
    said = about(found, features)
    written, left_out = _write(files, found, features, f"Map of {folder.resolve().name}", said, side, strict=out is not None)
    if as_json:
        groups = {group.name: group.count for group in found.groups}
        facts = {"projection": projection, "of": found.total, "groups": groups, "files": written, "left_out": left_out}
        say_json("map", facts, features.run.encoder.identity, len(found.paths))
    else:
        say(f"{', '.join(written)}: {said}")
    if atlas:
        note("Embedding Atlas: stop with Ctrl-C")
        raise typer.Exit(open_atlas(program, next(file for file in files if file.suffix == ".parquet")))
    end_with(failed)


def _write(
    files: list[Path], found: Map, features: Features, title: str, said: str, side: int, strict: bool
) -> tuple[list[str], list[str]]:
    """Files written, and files omitted with the reason: without matplotlib the image, unless ``strict``."""
    from sslfeat.reports.embedding_atlas import write_table
    from sslfeat.reports.map_view import map_page
    from sslfeat.reports.plots import map_png
    from sslfeat.reports.render import write_page
    from sslfeat.storage import atomic

    written, left_out = [], []
    for file in files:
        if file.suffix == ".html":
            write_page(file, map_page(title, said, found, side))
        elif file.suffix == ".parquet":
            write_table(file, found, features.embeddings)
        else:
            try:
                atomic.write_atomic(file, map_png(found))
            except MissingExtraError as error:
                if strict:
                    raise
                left_out.append(f"{file}: {error}")
                note(f"omitted: {left_out[-1]}")
                continue
        written.append(str(file))
    return written, left_out


def about(found: Map, features: Features) -> str:
    """One-line description of the map."""
    chosen = f"{len(found.paths)} of {found.total}" if len(found.paths) < found.total else f"{found.total}"
    by = f", colored by {found.by}" if found.colored else ""
    ways = {"pca": "first two principal components", "tsne": "t-SNE", "umap": "UMAP"}
    return f"{chosen} images, {ways[found.method]} of the features of {features.run.encoder.card.name}{by}"


def _names(folder: Path, features: Features, color: str, labels: str, clusters: Path) -> tuple[list[str | None], tuple[str, ...]]:
    """Group of each image, and all groups if they are ordered. Raises UsageError for an unknown column."""
    from sslfeat.evaluation.clustering.storage import read_clusters
    from sslfeat.evaluation.color_scale import column_of, ranges
    from sslfeat.evaluation.probing.labels import LabelSource
    from sslfeat.features.reader import FeaturesFolder

    if color == "cluster":
        return [None if name == "none" else f"cluster {name}" for name in read_clusters(clusters, features.paths)], ()
    if color != "label":
        return ranges(column_of(FeaturesFolder(folder), color))
    found = LabelSource(labels).of(features)
    return [", ".join(label) if isinstance(label, tuple) else label for label in found], ()
