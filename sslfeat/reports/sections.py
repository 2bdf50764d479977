"""Sections of a report. Each is a dict with some of ``about``, ``facts``, ``images``, ``view``, ``plots``, ``findings`` (for the
verdict). Raises SslfeatError with the reason if a section cannot be made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sslfeat.evaluation.clustering.clustering import Clustering, ClusterOptions, cluster
from sslfeat.evaluation.embedding_map import make_map
from sslfeat.evaluation.unsupervised import MEANING, score
from sslfeat.numerics.sampling import sample
from sslfeat.numerics.similarity import nearest
from sslfeat.reports.contact_sheet import contact_sheet
from sslfeat.reports.display_names import short_names
from sslfeat.reports.gallery import Shown
from sslfeat.reports.map_view import map_view
from sslfeat.reports.report_data import Material
from sslfeat.reports.verdict import of_clusters, of_duplicates, of_images, of_score
from sslfeat.system.plurals import counted

Part = dict[str, Any]
Step = Callable[[float, str], None]
SCORED, MAPPED = 20_000, 10_000  # maximum number of images
CLUSTERS, EACH = 12, 3  # clusters shown, and images per kind in each
QUERIES, FOUND = 8, 7
GROUPS, COPIES, CLOSE = 10, 6, 0.7  # CLOSE: minimum cosine of compared pairs
COMPARING = {"compared": (0.0, 0.2), "decoded": (0.2, 0.25), "judged": (0.25, 1.0)}  # start and end, as shares of the time
REASONS = 8
MOST_CLUSTERS = 50


def encoder(material: Material) -> Part:
    """Card of the encoder."""
    run, card = material.features.run, material.features.run.encoder.card
    prep, data, parity = card.preprocess, card.training_data, card.parity
    return {
        "facts": [
            ("name", card.name),
            ("fingerprint", run.encoder.fingerprint),
            ("method", f"{card.method}, {card.backbone}, features of {card.layer}, {card.dim} units"),
            ("trained on", f"{data.name} ({counted(data.images, 'image')}; license: {data.license})"),
            ("license", card.license),
            ("preprocessing", f"resize to {prep.resize}, crop to {prep.size} px, {prep.filter}, {prep.color}"),
            ("computed in", f"{run.precision['ran']} with {run.provider}, decoding {run.decode.mode}"),
            ("agreement with PyTorch", f"maximum difference {parity.max_abs_diff:.3g}, minimum cosine "
             f"{parity.min_cosine:.6f}, over {parity.images} images ({parity.source})"),
        ]
    }  # fmt: skip


def data(material: Material) -> Part:
    """Number and size of the images, and failures."""
    wide, high = (np.asarray(material.columns[name]) for name in ("width", "height"))
    labeled = sum(name is not None for name in material.names)
    facts = [
        ("images", f"{material.total}" + (f", of which {len(wide)} were sampled" if len(wide) < material.total else "")),
        ("failed", f"{len(material.failures)}"),
        ("labels", f"{counted(labeled, 'image')}, {material.classes} classes" if labeled else "none"),
        *((name, _spread(values, unit)) for name, values, unit in (
            ("width", wide, "px"), ("height", high, "px"), ("area", wide * high / 1e6, "MP"), ("width : height", wide / high, ""),
        )),
    ]  # fmt: skip
    failed = short_names([path for path, _ in material.failures])
    for reason, count in Counter(reason for _, reason in material.failures).most_common(REASONS):
        example = next(path for path, (_, why) in zip(failed, material.failures, strict=True) if why == reason)
        facts.append((f"failed: {count}", f"{reason}, for example {example}"))
    ends: list[tuple[str, int] | None] = [None, None]
    if labeled:
        sizes = Counter(name for name in material.names if name is not None).most_common()
        ends = [sizes[0], sizes[-1]]
        facts.append(("largest class", f"{sizes[0][0]}: {sizes[0][1]}"))
        facts.append(("smallest class", f"{sizes[-1][0]}: {sizes[-1][1]}"))
    return {"facts": facts, "findings": of_images(len(material.failures), material.total, *ends)}


def scores(material: Material) -> Part:
    """Label-free metrics."""
    found = score(material.x[sample(len(material.x), SCORED)])
    facts = [(name.replace("_", " "), f"{getattr(found, name):.3f}", meaning) for name, meaning in MEANING.items()]
    about = f"{found.images} images, {found.dim} units."
    return {"about": about, "facts": facts, "findings": of_score(found)}


def clusters(material: Material, seed: int, step: Step) -> tuple[Part, Clustering]:
    """k-means with as many clusters as classes, or else the number with the best silhouette."""
    k = material.classes if 2 <= material.classes <= MOST_CLUSTERS else None
    found = cluster(material.x, ClusterOptions(k=k, seed=seed), step)
    why = "the number of classes" if k else "the number with the best silhouette"
    facts: list[Sequence[str]] = [
        ("clusters", f"{len(found.centers)}", f"{why}; sizes: {', '.join(map(str, found.sizes[:CLUSTERS]))}"),
        ("silhouette", f"{found.silhouette:.3f}", "-1 to 1; 0: overlapping clusters (Rousseeuw 1987)"),
        ("stability", f"{found.stability:.3f}", "adjusted Rand index between restarts; 1: identical clusters"),
    ]
    if material.classes:
        judged = found.figures(material.names)["labels"]
        facts += [
            (
                "NMI, ARI",
                f"{judged['nmi']:.3f}, {judged['ari']:.3f}",
                "agreement with the labels; 0: chance, 1: identical",
            ),
            ("accuracy", f"{100 * judged['accuracy']:.2f}%", "clusters and labels matched one to one"),
            ("purity", f"{100 * judged['purity']:.2f}%", "images with the most frequent label of their cluster"),
        ]
    images = contact_sheet(found, material.paths, material.names, EACH, CLUSTERS)
    about = "Images of each cluster: near its center, odd (another center is almost as near), and far from its center."
    return {"about": about, "facts": facts, "images": images, "findings": of_clusters(found)}, found


def map_(material: Material, found: Clustering | None, method: str, seed: int) -> Part:
    """Map, colored by label, or else by cluster."""
    names = material.names
    by = "label"
    if not material.classes and found is not None:
        names = [f"cluster {number}" if number >= 0 else None for number in found.assignments.tolist()]
        by = "cluster"
    drawn = make_map(material.x, material.paths, names, method, MAPPED, seed, by=by)
    ways = {"pca": "First two principal components", "tsne": "t-SNE", "umap": "UMAP"}
    return {"about": f"{ways[method]}, {len(drawn.paths)} images, colored by {by}.", "view": map_view(drawn)}


def neighbors(material: Material, seed: int) -> Part:
    """Random queries and their nearest neighbors by cosine similarity."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(material.x))[:QUERIES])
    cosines, found = nearest(material.x, material.x[rows], min(FOUND + 1, len(material.x)))
    images = []
    for query, values, near in zip(rows.tolist(), cosines.tolist(), found.tolist(), strict=True):
        others = [(value, row) for value, row in zip(values, near, strict=True) if row != query][:FOUND]
        asked = Shown(material.paths[query], "query", marked=True)
        images.append((material.names[query] or "", [asked, *(Shown(material.paths[row], f"{v:.3f}") for v, row in others)]))
    return {"about": "Random queries (framed) and their nearest neighbors by cosine similarity.", "images": images}


def duplicates(material: Material, step: Step) -> Part:
    """The largest groups of duplicates."""
    from sslfeat.dedup.near_duplicates import find_duplicates
    from sslfeat.retrieval.vectors import ArrayVectors

    furthest = 0.0

    def forward(stage: str, done: int, total: int) -> None:
        nonlocal furthest  # pixels are compared in several passes
        begin, end = COMPARING[stage]
        furthest = max(furthest, begin + (end - begin) * done / max(1, total))
        step(furthest, f"{stage} {done}/{total}")

    found = find_duplicates(ArrayVectors(material.x, material.columns), CLOSE, forward, pixels=True)
    images = [
        (f"group {number}", [Shown(group.kept.path, "kept", marked=True), *(
            Shown(copy.path, copy.verdict) for copy in group.copies[:COPIES]
        )])
        for number, group in enumerate(found.groups[:GROUPS], 1)
    ]  # fmt: skip
    more = f"; the first {GROUPS} groups are shown" if len(found.groups) > GROUPS else ""
    about = (
        f"{found.counts()}{more}. Only images whose whitened features have a cosine similarity of at least "
        f"{found.threshold:.3g} were compared; 'sslfeat dedupe' compares more pairs, and can move duplicates. "
        "Framed: the image to keep."
    )
    return {"about": about, "images": images, "findings": of_duplicates(found)}


def _spread(values: Any, unit: str) -> str:
    least, middle, most = np.quantile(values, (0, 0.5, 1))
    return f"{least:.4g} to {most:.4g} {unit}".rstrip() + f", median {middle:.4g}"
