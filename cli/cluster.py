"""``sslfeat cluster``: cluster features."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sslfeat.cli.console import check_new, measured, note, say, say_json
from sslfeat.cli.options import FeaturesSource, Json, Overwrite, Seed
from sslfeat.cli.sources import end_with, sought
from sslfeat.errors import InputError, UsageError, install_line
from sslfeat.system.plurals import counted

if TYPE_CHECKING:
    from sslfeat.evaluation.clustering.clustering import Clustering
    from sslfeat.evaluation.clustering.metrics import LabelAgreement

SHOWN = 20  # maximum number of clusters listed
PAGE = "clusters.html"
LOW, UNSTABLE = 0.1, 0.7  # a lower silhouette and stability cause a warning
Method = Literal["kmeans", "hdbscan", "agglomerative"]


def cluster(
    source: FeaturesSource,
    k: Annotated[
        str,
        typer.Option("-k", "--k", metavar="<int|auto>", help="number of clusters; auto: the number with the largest silhouette"),
    ] = "auto",
    method: Annotated[Method, typer.Option(help="clustering algorithm")] = "kmeans",
    spherical: Annotated[bool, typer.Option("--spherical", help="spherical k-means (cosine)")] = False,
    restarts: Annotated[int, typer.Option(help="number of initializations of k-means; the best is kept")] = 3,
    reduce: Annotated[int, typer.Option(help="number of principal components for hdbscan and agglomerative")] = 32,
    min_size: Annotated[int, typer.Option(help="minimum size of an hdbscan cluster")] = 10,
    out: Annotated[Path, typer.Option(help="output: folder for assignments, centers and metrics")] = Path("clusters"),
    page: Annotated[bool, typer.Option("--page", help=f"write contact sheets of the clusters to {PAGE} in --out")] = False,
    links: Annotated[Path | None, typer.Option(help="new folder with links to the images of each cluster")] = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Cluster features, and evaluate the clusters (silhouette, stability; with labels, agreement with them)."""
    from sslfeat.evaluation.clustering import storage
    from sslfeat.evaluation.clustering.clustering import ClusterOptions
    from sslfeat.evaluation.clustering.clustering import cluster as run
    from sslfeat.evaluation.probing.labels import check_finite
    from sslfeat.features.reader import Features

    options = ClusterOptions(method, _number(k), spherical, restarts, reduce, min_size, seed)
    storage.check_free(out, overwrite)
    check_new(overwrite, out / PAGE if page else None)
    if links is not None and links.exists():
        raise InputError(f"--links {links} exists: give a new folder")
    (wanted,) = sought(source)
    options.check(wanted.shape()[0])
    folder, failed = wanted.folder, wanted.make()
    features = Features.load(folder)
    check_finite(features.embeddings, features.paths)
    with measured(options.k is None and method != "hdbscan") as step:
        found = run(features.embeddings, options, step)
    encoder = features.run.encoder.identity
    figures = {**found.figures(features.labels), "method": method}
    storage.save(out, found, features.paths, features.labels, {**figures, "encoder": encoder.name})
    if links is not None:
        missing = storage.link(links, found, features.paths)
        note(f"{links}: {counted(len(features.paths) - len(missing), 'link')}")
        if missing:
            note(f"{counted(len(missing), 'image')} no longer exist, such as {missing[0]}")
    if page:
        _page(out / PAGE, features, found)
    if as_json:
        say_json("cluster", {"out": str(out), **figures}, encoder, len(features.paths))
    else:
        _say(found, found.agreement(features.labels), out)
    end_with(failed)


def _number(k: str) -> int | None:
    if k == "auto":
        return None
    if not k.isdigit():
        raise UsageError(f"-k {k!r} is neither a number nor auto")
    return int(k)


def _page(path: Path, features: Any, found: Any) -> None:
    from sslfeat.reports.contact_sheet import CLUSTERS, contact_sheet
    from sslfeat.reports.gallery import gallery
    from sslfeat.reports.render import write_page

    sections = contact_sheet(found, features.paths, features.labels)
    number = len(found.centers)
    shown = f"the largest {CLUSTERS} of {number} clusters" if number > CLUSTERS else counted(number, "cluster")
    about = (
        f"{counted(len(features.paths), 'image')}, {shown}. For each: images nearest to the center; images almost as near to "
        "another center; images farthest from it. Numbers are distances to the center."
    )
    write_page(path, gallery("Clusters", about, sections))
    note(f"{path}: contact sheets")


def _say(found: Clustering, judged: LabelAgreement | None, out: Path) -> None:
    number = len(found.centers)
    if found.tried:
        say("k         " + "".join(f"{k:>7}" for k in found.tried))
        say("silhouette" + "".join(f"{value:>7.3f}" for value in found.tried.values()))
        if number == min(found.tried):
            note("no clear number of clusters (the silhouette is largest at the minimum tried): set it with -k")
        elif number == max(found.tried):
            note(f"no clear number of clusters (the silhouette is largest at {number}, the maximum tried): set it with -k")
    if found.silhouette < LOW and found.stability < UNSTABLE:
        note(
            "these clusters overlap, and depend on the initialization (low silhouette and stability): use them to browse the "
            "images, not as classes"
        )
    if found.sampled:
        note(f"{found.sampled} images were clustered; the others were assigned to the cluster of the nearest of these")
    say(f"{out}: {counted(number, 'cluster')}, {_quality(found)}")
    if found.sizes:
        say("images: " + " ".join(map(str, found.sizes[:SHOWN])) + (" ..." if number > SHOWN else ""))
    if judged is None:
        return
    matched = ""
    if math.isnan(judged.accuracy):
        note(f"accuracy is omitted, since matching clusters to labels needs SciPy: {install_line('probe')}")
    else:
        matched = f"accuracy {100 * judged.accuracy:.2f}% (clusters matched one to one), "
    say(
        f"agreement with the labels of {judged.images}: NMI {judged.nmi:.3f}, ARI {judged.ari:.3f}, "
        f"{matched}purity {100 * judged.purity:.2f}%"
    )


def _quality(found: Clustering) -> str:
    """Quality of the clusters, or a note if most images are in no cluster."""
    total = len(found.assignments)
    if math.isnan(found.silhouette) and found.noise > total / 2:
        return (
            f"{found.noise} of {counted(total, 'image')} in no cluster ({found.noise / total:.0%}): too many for a meaningful "
            "silhouette; use a smaller --min-size, or --method kmeans"
        )
    noise = f"{counted(found.noise, 'image')} in no cluster, " if found.noise else ""
    stable = "" if math.isnan(found.stability) else f", stability between restarts {found.stability:.3f}"
    return f"{noise}silhouette {found.silhouette:.3f}{stable}"
