"""``sslfeat cluster``: which images belong together?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sslfeat.cli.console import check_new, note, say, say_json
from sslfeat.errors import InputError, UsageError, install_line

if TYPE_CHECKING:
    from sslfeat.evaluation.clustering.clustering import Clustering
    from sslfeat.evaluation.clustering.metrics import LabelAgreement

SHOWN = 20  # clusters listed


def cluster(
    folder: Annotated[Path, typer.Argument(metavar="FEATURES", help="features folder")],
    k: Annotated[str, typer.Option("--k", "-k", help="clusters, or auto: the k of greatest silhouette")] = "auto",
    method: Annotated[str, typer.Option(help="kmeans, hdbscan or agglomerative")] = "kmeans",
    spherical: Annotated[bool, typer.Option("--spherical", help="k-means by the cosine")] = False,
    restarts: Annotated[int, typer.Option(help="of k-means, the best is kept")] = 3,
    reduce: Annotated[int, typer.Option(help="principal components for hdbscan and agglomerative")] = 32,
    min_size: Annotated[int, typer.Option(help="of an hdbscan cluster")] = 10,
    out: Annotated[Path, typer.Option(help="folder for the assignments, centers and figures")] = Path("clusters"),
    links: Annotated[Path | None, typer.Option(help="make this folder, of links to the images of each cluster")] = None,
    html: Annotated[Path | None, typer.Option(help="write a page with a contact sheet of each cluster")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the clusters that --out holds, and the page")] = False,
    seed: Annotated[int, typer.Option(help="of k-means")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Cluster features; judge the clusters by themselves, and against labels where there are any."""
    from sslfeat.evaluation.clustering import storage
    from sslfeat.evaluation.clustering.clustering import ClusterOptions
    from sslfeat.evaluation.clustering.clustering import cluster as run
    from sslfeat.evaluation.probing.labels import check_finite
    from sslfeat.features.reader import Features

    options = ClusterOptions(method, _number(k), spherical, restarts, reduce, min_size, seed)
    storage.check_free(out, overwrite)
    check_new(overwrite, html)
    if links is not None and links.exists():
        raise InputError(f"--links {links} exists: links go into a new folder")
    features = Features.load(folder)
    check_finite(features.embeddings, features.paths)
    found = run(features.embeddings, options)
    figures = {**found.figures(features.labels), "method": method, "encoder": features.run.encoder.card.name}
    storage.save(out, found, features.paths, features.labels, figures)
    if links is not None:
        missing = storage.link(links, found, features.paths)
        note(f"{links}: {len(features.paths) - len(missing)} links")
        if missing:
            note(f"{len(missing)} images are not there any more, such as {missing[0]}")
    if html is not None:
        _page(html, features, found)
    if as_json:
        say_json(figures)
    else:
        _say(found, found.agreement(features.labels), out)


def _number(k: str) -> int | None:
    if k == "auto":
        return None
    if not k.isdigit():
        raise UsageError(f"--k {k!r} is neither a number nor auto")
    return int(k)


def _page(path: Path, features: Any, found: Any) -> None:
    from sslfeat.reports.contact_sheet import CLUSTERS, contact_sheet
    from sslfeat.reports.gallery import gallery
    from sslfeat.reports.render import write_page

    sections = contact_sheet(found, features.paths, features.labels)
    count = len(found.centers)
    shown = f"the largest {CLUSTERS} of {count} clusters" if count > CLUSTERS else f"{count} clusters"
    about = (
        f"{len(features.paths)} images, {shown}. Of each: the nearest to its center; odd ones, which another center is "
        "almost as near to; the farthest. Numbers are distances to the center."
    )
    write_page(path, gallery("Clusters", about, sections))
    note(f"{path}: contact sheets")


def _say(found: Clustering, judged: LabelAgreement | None, out: Path) -> None:
    count = len(found.centers)
    if found.tried:
        say("k         " + "".join(f"{k:>7}" for k in found.tried))
        say("silhouette" + "".join(f"{value:>7.3f}" for value in found.tried.values()))
        if count == min(found.tried):
            note("no k stands out (the silhouette favors few clusters): give --k for more")
    if found.sampled:
        note(f"{found.sampled} images were clustered; each of the others went with the nearest of them")
    noise = f", {found.noise} images in none" if found.noise else ""
    stable = "" if math.isnan(found.stability) else f", stability between restarts {found.stability:.3f}"
    say(f"{out}: {count} clusters{noise}, silhouette {found.silhouette:.3f}{stable}")
    say("images: " + " ".join(map(str, found.sizes[:SHOWN])) + (" ..." if count > SHOWN else ""))
    if judged is None:
        return
    matched = ""
    if math.isnan(judged.accuracy):
        note(f"left out: accuracy, which matches clusters with labels by SciPy: {install_line('probe')}")
    else:
        matched = f"accuracy {100 * judged.accuracy:.2f}% (clusters matched one to one), "
    say(
        f"against the labels of {judged.images}: NMI {judged.nmi:.3f}, ARI {judged.ari:.3f}, "
        f"{matched}purity {100 * judged.purity:.2f}%"
    )
