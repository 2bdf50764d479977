"""Report section with the accuracy of simple classifiers on the features; needs labels."""

from __future__ import annotations

from markupsafe import Markup

from sslfeat.errors import FeaturesError
from sslfeat.evaluation.probing.bootstrap import Accuracy
from sslfeat.evaluation.probing.labels import LabelSource
from sslfeat.reports.report_data import Material
from sslfeat.reports.sections import Part
from sslfeat.reports.verdict import of_probe, of_several

LEAST_IMAGES = 5  # per class; smaller classes are left out


def probe(material: Material, source: LabelSource, seed: int) -> Part:
    """Accuracy of simple classifiers, and their errors per class."""
    from sslfeat.evaluation.probing.multilabel import SeveralProbed
    from sslfeat.evaluation.probing.probe import ProbeOptions
    from sslfeat.evaluation.probing.run import run_folders
    from sslfeat.reports.plots import BARS, confusion_svg, recall_svg

    if not material.classes:
        raise FeaturesError("the images have no labels: embed with --labels folder, or give a table with --labels")
    probed = run_folders(material.features, None, ProbeOptions(seed=seed), source, LEAST_IMAGES)
    result = probed.result
    about = f"Trained on {result.train} images and tested on the other {result.test}; 95% confidence intervals."
    if isinstance(probed, SeveralProbed):
        rows = [
            (
                "mean average precision",
                f"{100 * probed.result.mean:.2f}%",
                f"chance level {100 * probed.result.chance:.2f}%",
            )
        ]
        each = sorted(probed.result.per_label, key=lambda row: row.average_precision)
        return {
            "about": about,
            "findings": of_several(probed.result),
            "facts": rows + [(row.name, f"{100 * row.average_precision:.2f}%", f"{row.test} test") for row in each],
        }
    single = probed.result
    best = single.knn_best
    facts = [
        _row(f"linear, C = {single.c:g}", single.linear, f"majority class baseline: {100 * single.majority:.2f}%"),
        _row("balanced", single.balanced, "mean recall over classes"),
        _row(f"{best.k} nearest", best.accuracy, f"weights exp(cosine / {best.temperature:g}); both chosen on training images"),
        _row("nearest class mean", single.nearest_mean, ""),
        *((f"{shot.shots} per class", f"{100 * shot.top1:.2f}%", f"[{100 * shot.low:.2f}, {100 * shot.high:.2f}]",
           f"{shot.draws} draws") for shot in single.few_shot),
    ]  # fmt: skip
    shown = f"the worst {BARS} of {single.classes} classes" if single.classes > BARS else "each class"
    plots = [
        ("Confusion matrix in %: rows are true classes, columns predicted classes",
         confusion_svg(probed.counts, probed.names)),
        (f"Recall of {shown}, with 95% confidence interval, worst first", recall_svg(single.per_class)),
    ]  # fmt: skip
    return {
        "about": about,
        "facts": facts,
        "plots": [{"name": name, "svg": Markup(svg)} for name, svg in plots],  # names are escaped
        "findings": of_probe(single),
    }


def _row(name: str, value: Accuracy, meaning: str) -> tuple[str, str, str, str]:
    return name, f"{100 * value.top1:.2f}%", f"[{100 * value.low:.2f}, {100 * value.high:.2f}]", meaning
