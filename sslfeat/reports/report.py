"""Report on a features folder: one self-contained HTML page with all evaluations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sslfeat.errors import InputError, SslfeatError
from sslfeat.evaluation.clustering.clustering import Clustering
from sslfeat.evaluation.probing.labels import LabelSource
from sslfeat.evaluation.projection import METHODS
from sslfeat.reports import sections
from sslfeat.reports.gallery import filled
from sslfeat.reports.probe_section import probe
from sslfeat.reports.render import render
from sslfeat.reports.report_data import Material, read_material
from sslfeat.reports.sections import Part, Step
from sslfeat.reports.verdict import verdict
from sslfeat.system.plurals import counted

WEIGHTS = {  # approximate share of the time of each part, for 10,000 images
    "encoder": 1, "data": 1, "probe": 12, "scores": 5, "clusters": 8, "map": 2, "neighbors": 4, "duplicates": 67,
}  # fmt: skip


@dataclass(frozen=True)
class ReportOptions:
    """``limit``: maximum number of images. ``method``: of the map. ``source``: of the labels."""

    title: str | None = None
    source: LabelSource = field(default_factory=LabelSource)
    method: str = "pca"
    limit: int = 50_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"unknown map {self.method!r}: choose one of {', '.join(METHODS)}")
        if self.limit < 10:
            raise InputError(f"limit {self.limit} is too small: a report needs at least 10 images")


def report(folder: Path, options: ReportOptions | None = None, step: Step = lambda share, part: None) -> str:
    """The HTML page. ``step`` is called with the share that is done, and the current part. If a part cannot be made, the page
    gives the reason.

    Raises FeaturesError if the folder is not a features folder, or is damaged, empty, or not finite; InputError for labels.
    """
    options = options or ReportOptions()
    material = read_material(folder, options.source, options.limit, options.seed)
    parts = _parts(material, options, step)
    galleries = filled([part["images"] for part in parts])
    for part, images in zip(parts, galleries, strict=True):
        part["images"] = images
    card = material.features.run.encoder.card
    return render(
        "report.html",
        title=options.title or f"{card.name} on {folder.resolve().name}",
        about=f"{counted(material.total, 'image')}, {card.dim} units. Made with 'sslfeat report'.",
        parts=parts,
        verdict=verdict([finding for part in parts for finding in part["findings"]]),
    )


def _parts(material: Material, options: ReportOptions, step: Step) -> list[Part]:
    clustering: list[Clustering] = []

    def clusters(within: Step) -> Part:
        part, found = sections.clusters(material, options.seed, within)
        clustering.append(found)
        return part

    def map_(_: Step) -> Part:
        return sections.map_(material, clustering[0] if clustering else None, options.method, options.seed)

    makers: dict[str, tuple[str, Callable[[Step], Part]]] = {
        "encoder": ("Encoder", lambda _: sections.encoder(material)),
        "data": ("Images", lambda _: sections.data(material)),
        "probe": ("Probe", lambda _: probe(material, options.source, options.seed)),
        "scores": ("Label-free metrics", lambda _: sections.scores(material)),
        "clusters": ("Clusters", clusters),
        "map": ("Map", map_),
        "neighbors": ("Nearest neighbors", lambda _: sections.neighbors(material, options.seed)),
        "duplicates": ("Duplicates", lambda within: sections.duplicates(material, within)),
    }
    made = {name: _made(name, title, make, _within(name, title, step)) for name, (title, make) in makers.items()}
    order = ("encoder", "data", "probe", "scores", "map", "clusters", "neighbors", "duplicates")
    return [made[name] for name in order]


def _within(name: str, title: str, step: Step) -> Step:
    """Convert progress within one part to progress of the whole report."""
    names, total = list(WEIGHTS), sum(WEIGHTS.values())
    before = sum(WEIGHTS[other] for other in names[: names.index(name)])

    def within(share: float, what: str) -> None:
        step((before + share * WEIGHTS[name]) / total, f"{title.lower()}{f': {what}' if what else ''}")

    return within


def _made(name: str, title: str, make: Callable[[Step], Part], step: Step) -> Part:
    step(0.0, "")
    empty: dict[str, Any] = {
        "about": "",
        "facts": [],
        "images": [],
        "view": None,
        "plots": [],
        "reason": "",
        "findings": [],
    }
    try:
        return {"id": name, "title": title, **empty, **make(step)}
    except SslfeatError as error:
        return {"id": name, "title": title, **empty, "reason": f"Not measured: {error}."}
