"""Summary of a report in words: strengths, and recommended next steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sslfeat.dedup.near_duplicates import Duplicates
from sslfeat.evaluation.clustering.clustering import Clustering
from sslfeat.evaluation.probing.multilabel import MultiLabelResult
from sslfeat.evaluation.probing.probe import ProbeResult
from sslfeat.evaluation.unsupervised import Score

WORDS = ((0.8, "well"), (0.5, "fairly well"), (0.2, "partly"), (-1.0, "poorly"))  # (accuracy - chance) / (1 - chance)
COLLAPSED, HUBS = 0.05, 3.0  # minimum effective rank / dimension, and maximum skewness
STABLE, UNSTABLE = 0.8, 0.5  # adjusted Rand index between restarts
UNEVEN = 10  # ratio of the largest to the smallest class
LARGE_LOSS = 0.15  # difference between the mean recall and that of the worst class


@dataclass(frozen=True)
class Finding:
    """A finding, and what to ``do`` about it (empty for strengths). A finding of ``rank`` 0 is the headline."""

    text: str
    do: str = ""
    rank: int = 1


def verdict(findings: Sequence[Finding]) -> dict[str, object]:
    """For the template: ``headline``, ``good`` (texts), and ``next`` (findings that need action)."""
    first = next((finding for finding in findings if finding.rank == 0), None)
    poor = [finding for finding in findings if finding.do]
    if first is None:
        wrong = "; no problems were found" if not poor else ""
        first = Finding(f"Classification accuracy was not measured, because there are no labels{wrong}.")
        do = (
            "A few hundred labels are enough: give them with --labels. Without labels, use 'sslfeat cluster FEATURES' and "
            "'sslfeat map FEATURES --color cluster'."
        )
        poor.insert(0, Finding("No classifier was evaluated: see Probe.", do))
    good = [finding.text for finding in findings if not finding.do and finding is not first]
    return {"headline": first.text, "good": good, "next": poor}


def of_images(failed: int, read: int, largest: tuple[str, int] | None, smallest: tuple[str, int] | None) -> list[Finding]:
    """``largest`` and ``smallest``: classes with their number of images."""
    found = []
    if failed:
        share = f"{failed} of {failed + read} images"
        found.append(Finding(f"{share} could not be read.", "The table under Images gives the reasons: replace or remove them."))
    if largest and smallest and largest[1] >= UNEVEN * smallest[1]:
        text = f"Classes are imbalanced: {largest[1]} images of {largest[0]}, {smallest[1]} of {smallest[0]}."
        found.append(Finding(text, "Use the balanced accuracy, and collect more images of the small classes."))
    return found


def of_probe(result: ProbeResult) -> list[Finding]:
    """The headline is about the linear probe."""
    linear, best = result.linear, result.knn_best
    way = (linear.top1 - result.majority) / max(1 - result.majority, 1e-9)
    word = next(word for least, word in WORDS if way >= least)
    headline = (
        f"These features separate the {result.classes} classes {word}: a linear classifier is correct for "
        f"{_percent(linear.top1)} of the test images (95% confidence interval {_percent(linear.low)} to "
        f"{_percent(linear.high)}; majority class baseline: {_percent(result.majority)})."
    )
    found = [Finding(headline, rank=0)]
    if linear.low <= result.majority:
        text = "The linear classifier is not better than the majority class baseline."
        found.append(Finding(text, "Check the labels; then train on similar images, or use a larger encoder."))
        return found
    if best.accuracy.high >= linear.low:
        text = f"Nearest neighbors are about as accurate ({_percent(best.accuracy.top1)}), without training a classifier."
        found.append(Finding(text))
    shots = [shot for shot in result.few_shot if shot.top1 >= 0.9 * linear.top1]
    if shots:
        found.append(Finding(f"Few labels are enough: {shots[0].shots} per class reach {_percent(shots[0].top1)}."))
    return found + _classes(result) + _seen(result)


def _classes(result: ProbeResult) -> list[Finding]:
    judged = [row for row in result.per_class if row.test]
    worst = min(judged, key=lambda row: row.recall)
    if worst.high < result.linear.low and worst.recall < result.balanced.top1 - LARGE_LOSS:
        mostly = f", and most often confused with {worst.taken_for}" if worst.taken_for else ""
        text = f"{worst.name} is the hardest class: {_percent(worst.recall)} of {worst.test} images are correct{mostly}."
        return [Finding(text, "Compare both on the map; add images, or correct wrong labels.")]
    if worst.recall < result.balanced.top1 - LARGE_LOSS:
        return []  # too few images: not significant
    return [Finding(f"No class is much worse than the others: the worst, {worst.name}, reaches {_percent(worst.recall)}.")]


def _seen(result: ProbeResult) -> list[Finding]:
    if result.unseen is None:
        return []
    text = f"{result.unseen.seen} test images are also training images, so the accuracy is too high."
    return [Finding(text, "Remove duplicates ('sslfeat dedupe') and make the report again.")]


def of_several(result: MultiLabelResult) -> list[Finding]:
    """Multi-label images."""
    text = f"The mean average precision over labels is {_percent(result.mean)}; chance level: {_percent(result.chance)}."
    return [Finding(text, rank=0)]


def of_score(score: Score) -> list[Finding]:
    """Label-free metrics only reveal broken features."""
    found = []
    use = f"effective rank is {score.rank_me:.0f} of {score.dim}"
    if score.rank_me < COLLAPSED * score.dim:
        text = f"The {use}: the features have collapsed, or all images are similar."
        found.append(Finding(text, "Train longer or with another method ('sslfeat methods')."))
    else:
        found.append(Finding(f"The features have not collapsed: the {use}."))
    if score.dead:
        text = f"{score.dead} of {score.dim} units are constant."
        found.append(Finding(text, "A few only cost memory; if there are many, train again."))
    if score.hubness > HUBS:
        text = f"A few images are neighbors of many others (hubness {score.hubness:.1f})."
        found.append(Finding(text, "In searches, set a minimum score ('sslfeat search --min-score')."))
    return found


def of_clusters(found: Clustering) -> list[Finding]:
    """Stability of the clusters."""
    count, stable = len(found.centers), found.stability
    if stable >= STABLE:
        return [Finding(f"The {count} clusters are stable between restarts (stability {stable:.2f}).")]
    if stable < UNSTABLE:
        text = f"The {count} clusters differ between restarts (stability {stable:.2f})."
        return [Finding(text, "Use them to browse the images, not as real groups.")]
    return []


def of_duplicates(found: Duplicates) -> list[Finding]:
    """Duplicates, which bias all other results."""
    if not found.copies:
        return [Finding("No duplicates were found among the sampled images.")]
    are = "is a duplicate" if found.copies == 1 else "are duplicates"
    text = f"{found.copies} of {found.images} images {are}."
    return [Finding(text, "'sslfeat dedupe FEATURES --apply FOLDER' moves them to a folder, and can move them back.")]


def _percent(value: float) -> str:
    return f"{100 * value:.0f}%" if 0.1 <= value < 0.995 else f"{100 * value:.1f}%"
