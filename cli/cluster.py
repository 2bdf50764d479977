"""``sslfeat cluster``: which images belong together?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sslfeat.cli.console import check_new, note, say, say_json
from sslfeat.errors import InputError, UsageError, install_line

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
    figures = {**found.figures(features.labels), "method": method, "encoder": features.run["encoder"]["card"]["name"]}
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
        _say(figures, out)


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


def _say(figures: dict[str, Any], out: Path) -> None:
    tried: dict[int, float] = figures["tried"]
    if tried:
        say("k         " + "".join(f"{k:>7}" for k in tried))
        say("silhouette" + "".join(f"{value:>7.3f}" for value in tried.values()))
        if figures["clusters"] == min(tried):
            note("no k stands out (the silhouette favors few clusters): give --k for more")
    if figures["sampled"]:
        note(f"{figures['sampled']} images were clustered; each of the others went with the nearest of them")
    noise = f", {figures['noise']} images in none" if figures["noise"] else ""
    stable = "" if figures["stability"] != figures["stability"] else f", stability between restarts {figures['stability']:.3f}"
    say(f"{out}: {figures['clusters']} clusters{noise}, silhouette {figures['silhouette']:.3f}{stable}")
    more = " ..." if figures["clusters"] > SHOWN else ""
    say("images: " + " ".join(map(str, figures["sizes"][:SHOWN])) + more)
    judged = figures["labels"]
    if judged:
        matched = ""
        if judged["accuracy"] == judged["accuracy"]:
            matched = f"accuracy {100 * judged['accuracy']:.2f}% (clusters matched one to one), "
        else:
            note(f"left out: accuracy, which matches clusters with labels by SciPy: {install_line('probe')}")
        say(
            f"against the labels of {judged['images']}: NMI {judged['nmi']:.3f}, ARI {judged['ari']:.3f}, "
            f"{matched}purity {100 * judged['purity']:.2f}%"
        )
