"""What the figures of a report say, in plain words: what is good, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sslfeat.dedup.near_duplicates import Duplicates
from sslfeat.evaluation.clustering.clustering import Clustering
from sslfeat.evaluation.probing.multilabel import MultiLabelResult
from sslfeat.evaluation.probing.probe import ProbeResult
from sslfeat.evaluation.unsupervised import Score

WORDS = ((0.8, "well"), (0.5, "fairly well"), (0.2, "in part"), (-1.0, "hardly"))  # of the way from chance to no error
COLLAPSED, HUBS = 0.05, 3.0  # share of directions in use below which, and skewness above which, something is wrong
STABLE, UNSTABLE = 0.8, 0.5  # adjusted Rand index between restarts
UNEVEN = 10  # times as many images in the largest class as in the smallest
LARGE_LOSS = 0.15  # of recall, in the worst class, against the mean


@dataclass(frozen=True)
class Finding:
    """What was found, and what to ``do`` about it: nothing where it is good. One of ``rank`` 0 is the verdict's first line."""

    text: str
    do: str = ""
    rank: int = 1


def verdict(findings: Sequence[Finding]) -> dict[str, object]:
    """For the template: ``headline``, the texts that are ``good``, and the findings that ask for something, ``next``."""
    first = next((finding for finding in findings if finding.rank == 0), None)
    poor = [finding for finding in findings if finding.do]
    if first is None:
        wrong = "; nothing wrong was found with them" if not poor else ""
        first = Finding(f"How well these features tell things apart was not measured, for want of labels{wrong}.")
        do = (
            "A few hundred labels are enough: --labels. Until then, look: 'sslfeat cluster FEATURES', then "
            "'sslfeat map FEATURES --color cluster'."
        )
        poor.insert(0, Finding("No classifier was judged: see under Probe.", do))
    good = [finding.text for finding in findings if not finding.do and finding is not first]
    return {"headline": first.text, "good": good, "next": poor}


def of_images(failed: int, read: int, largest: tuple[str, int] | None, smallest: tuple[str, int] | None) -> list[Finding]:
    """``largest`` and ``smallest`` are classes with their images."""
    found = []
    if failed:
        share = f"{failed} of {failed + read} images"
        found.append(Finding(f"{share} could not be read.", "The table under Images says why: replace or remove them."))
    if largest and smallest and largest[1] >= UNEVEN * smallest[1]:
        text = f"Classes are uneven: {largest[1]} images of {largest[0]}, {smallest[1]} of {smallest[0]}."
        found.append(Finding(text, "Judge by the balanced accuracy, and collect more of the small classes."))
    return found


def of_probe(result: ProbeResult) -> list[Finding]:
    """The verdict's first line is the linear probe's."""
    linear, best = result.linear, result.knn_best
    way = (linear.top1 - result.majority) / max(1 - result.majority, 1e-9)
    word = next(word for least, word in WORDS if way >= least)
    headline = (
        f"These features tell the {result.classes} classes apart {word}: {_percent(linear.top1)} of images that the "
        f"classifier never saw are named rightly (95% interval {_percent(linear.low)} to {_percent(linear.high)}; always "
        f"naming the commonest class: {_percent(result.majority)})."
    )
    found = [Finding(headline, rank=0)]
    if linear.low <= result.majority:
        text = "A classifier does no better than one that always names the commonest class."
        found.append(Finding(text, "Check the labels; then train on images like these, or take a larger encoder."))
        return found
    if best.accuracy.high >= linear.low:
        text = f"Votes of the nearest neighbors are about as good ({_percent(best.accuracy.top1)}): search needs no training."
        found.append(Finding(text))
    shots = [shot for shot in result.few_shot if shot.top1 >= 0.9 * linear.top1]
    if shots:
        found.append(Finding(f"Few labels are enough: {shots[0].shots} a class already reach {_percent(shots[0].top1)}."))
    return found + _classes(result) + _seen(result)


def _classes(result: ProbeResult) -> list[Finding]:
    judged = [row for row in result.per_class if row.test]
    worst = min(judged, key=lambda row: row.recall)
    if worst.high < result.linear.low and worst.recall < result.balanced.top1 - LARGE_LOSS:
        mostly = f", and mostly taken for {worst.taken_for}" if worst.taken_for else ""
        text = f"{worst.name} is the hardest class: {_percent(worst.recall)} of {worst.test} are recognized{mostly}."
        return [Finding(text, "Look at both on the map; add images, or put right labels that are wrong.")]
    if worst.recall < result.balanced.top1 - LARGE_LOSS:
        return []  # too few images to say so
    return [Finding(f"No class falls far behind: the hardest, {worst.name}, reaches {_percent(worst.recall)}.")]


def _seen(result: ProbeResult) -> list[Finding]:
    if result.unseen is None:
        return []
    text = f"{result.unseen.seen} test images are training images, too, which flatters the probe."
    return [Finding(text, "Remove the copies ('sslfeat dedupe') and make the report again.")]


def of_several(result: MultiLabelResult) -> list[Finding]:
    """Images that carry several labels each."""
    text = f"Mean average precision over labels is {_percent(result.mean)}; a random order would reach {_percent(result.chance)}."
    return [Finding(text, rank=0)]


def of_score(score: Score) -> list[Finding]:
    """Without labels only what is broken can be told from what is not."""
    found = []
    use = f"{score.rank_me:.0f} of {score.dim} directions are in use"
    if score.rank_me < COLLAPSED * score.dim:
        text = f"Only {use}: the features have collapsed, or the images are all alike."
        found.append(Finding(text, "Train longer or with another method ('sslfeat methods')."))
    else:
        found.append(Finding(f"The features have not collapsed: {use}."))
    if score.dead:
        text = f"{score.dead} of {score.dim} units never change."
        found.append(Finding(text, "They only cost memory; if they are many, train again."))
    if score.hubness > HUBS:
        text = f"A few images are among everybody's neighbors (hubness {score.hubness:.1f})."
        found.append(Finding(text, "Do not trust ranks alone: ask for a least score ('sslfeat search --min-score')."))
    return found


def of_clusters(found: Clustering) -> list[Finding]:
    """Whether clusters can be relied on."""
    count, stable = len(found.centers), found.stability
    if stable >= STABLE:
        return [Finding(f"The {count} clusters come out the same from other starts (stability {stable:.2f}).")]
    if stable < UNSTABLE:
        text = f"The {count} clusters differ from start to start (stability {stable:.2f})."
        return [Finding(text, "Take them as a way to look through images, not as groups that exist.")]
    return []


def of_duplicates(found: Duplicates) -> list[Finding]:
    """Copies are counted twice by everything else."""
    if not found.copies:
        return [Finding("No copies were found among the images that were looked at.")]
    are = "is a copy of another" if found.copies == 1 else "are copies of others"
    text = f"{found.copies} of {found.images} images {are}."
    return [Finding(text, "'sslfeat dedupe FEATURES --apply FOLDER' sets them aside, and can put them back.")]


def _percent(value: float) -> str:
    return f"{100 * value:.0f}%" if 0.1 <= value < 0.995 else f"{100 * value:.1f}%"
