"""The verdict says what figures mean, and asks for something only where something is wrong; plots are XML that hurts nobody."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from sslfeat.evaluation.clustering.clustering import Clustering
from sslfeat.evaluation.probing.bootstrap import Accuracy
from sslfeat.evaluation.probing.confusion import class_figures
from sslfeat.evaluation.probing.knn import FewShot
from sslfeat.evaluation.probing.predict import Prediction
from sslfeat.evaluation.probing.probe import KnnBest, ProbeResult, Unseen
from sslfeat.evaluation.unsupervised import Score
from sslfeat.reports.plots import confusion_svg, recall_svg
from sslfeat.reports.prediction_sheet import NAMELESS, prediction_sheet
from sslfeat.reports.verdict import of_clusters, of_images, of_probe, of_score, verdict

HOSTILE = "</text><script>alert(1)</script>\x00\udcff&\"'"
NAMES = ["cat", "owl", "pig"]


def probed(rows: list[list[int]], top1: float, **more: Any) -> ProbeResult:
    counts = np.array(rows, np.int64)
    around = Accuracy(top1, top1 - 0.04, top1 + 0.04)
    made: dict[str, Any] = {
        "linear": around, "c": 1.0, "validation": {}, "balanced": around, "knn": {}, "knn_best": KnnBest(5, 0.1, around),
        "nearest_mean": around, "few_shot": [FewShot(10, 20, top1 - 0.01, 0.0, 1.0)], "asked": 300, "classes": 3,
        "train": 900, "test": 300, "majority": 1 / 3,
        "per_class": class_figures(counts, NAMES, np.random.default_rng(0)),
    }  # fmt: skip
    return ProbeResult(**{**made, **more})


@pytest.mark.parametrize(("top1", "words"), [(0.95, " classes well"), (0.7, " fairly well"), (0.5, " partly"), (0.4, " poorly")])
def test_the_headline_is_measured_from_chance(top1: float, words: str) -> None:
    result = probed([[100, 0, 0], [0, 100, 0], [0, 0, 100]], top1)
    told = verdict(of_probe(result))
    assert words in str(told["headline"])
    assert f"{100 * top1:.0f}%" in str(told["headline"])
    assert "majority class baseline: 33%" in str(told["headline"])


def test_good_features_ask_for_nothing() -> None:
    told = verdict(of_probe(probed([[95, 5, 0], [4, 96, 0], [3, 3, 94]], 0.95)))
    assert told["next"] == []
    assert [text for text in told["good"] if "10 per class reach 94%" in text]  # type: ignore[attr-defined]
    assert [text for text in told["good"] if "No class is much worse" in text]  # type: ignore[attr-defined]


def test_what_is_poor_is_named_with_its_cure() -> None:
    weak = of_probe(probed([[98, 2, 0], [1, 99, 0], [0, 60, 40]], 0.79))
    assert [finding.text for finding in weak if finding.do] == [
        "pig is the hardest class: 40% of 100 images are correct, and most often confused with owl."
    ]
    few = of_probe(probed([[9, 1, 0], [0, 10, 0], [0, 4, 6]], 0.84))
    assert not [finding for finding in few if "hardest" in finding.text]
    seen = Unseen(7, 293, None, None)
    leaked = of_probe(probed([[98, 2, 0], [1, 99, 0], [0, 2, 98]], 0.98, unseen=seen))
    assert "7 test images are also training images" in next(finding for finding in leaked if finding.do).text
    chance = of_probe(probed([[34, 33, 33]] * 3, 0.34))
    assert "not better" in next(finding for finding in chance if finding.do).text
    images = of_images(2, 98, ("cat", 90), ("owl", 8))
    assert [bool(finding.do) for finding in images] == [True, True]
    assert of_images(0, 100, ("cat", 50), ("owl", 50)) == []


def test_figures_without_labels() -> None:
    sound = Score(1000, 128, 90.0, 1.0, -3.0, 0.1, 1.0, 0.2, 0, 0.5)
    assert [finding.do for finding in of_score(sound)] == [""]
    broken = replace(sound, rank_me=3.0, dead=9, hubness=8.0)
    assert len([finding for finding in of_score(broken) if finding.do]) == 3
    assert "no problems were found" in str(verdict(of_score(sound))["headline"])
    assert "no problems" not in str(verdict(of_score(broken))["headline"])
    (only,) = [finding.do for finding in verdict([])["next"]]  # type: ignore[attr-defined]
    assert "A few hundred labels are enough" in only and "--color cluster" in only
    nobody = np.zeros(4)
    for stability, findings, asks in ((0.95, 1, False), (0.6, 0, False), (0.2, 1, True), (float("nan"), 0, False)):
        found = of_clusters(
            Clustering(nobody.astype(np.int64), np.zeros((2, 1), np.float32), nobody.astype(np.float32),
                       nobody.astype(np.float32), 0.1, stability, 1.0)
        )  # fmt: skip
        assert len(found) == findings
        assert any(finding.do for finding in found) == asks


@pytest.mark.parametrize("classes", [2, 15, 41, 200])
def test_plots_are_whole_xml_and_names_are_text(classes: int) -> None:
    names = [HOSTILE, *(f"class {number} with a long name" for number in range(1, classes))]
    counts = np.random.default_rng(0).integers(0, 9, (classes, classes))
    figures = class_figures(counts, names, np.random.default_rng(0))
    for svg in (confusion_svg(counts, names), recall_svg(figures)):
        root = ElementTree.fromstring(svg.encode())
        assert not root.findall(".//{*}script")
        assert "#fff" not in svg.lower()
        assert len(svg) < 400_000
    assert "95% confidence interval" in recall_svg(figures)
    assert ("<image" in confusion_svg(counts, names)) == (classes > 40)


def test_cells_are_shares_of_their_row() -> None:
    svg = confusion_svg(np.array([[3, 1], [0, 8]]), ["cat", "owl"])
    titles = [text.text for text in ElementTree.fromstring(svg).findall(".//{*}rect/{*}title")]
    assert titles == ["cat predicted as cat: 3 of 4", "cat predicted as owl: 1 of 4", "owl predicted as owl: 8 of 8"]
    texts = [text.text for text in ElementTree.fromstring(svg).findall("{*}text")]
    assert [text for text in texts if text and text.isdigit()] == ["75", "25", "100"]


def test_predictions_show_the_surest_and_the_least_sure() -> None:
    rows = [Prediction(f"{n}.jpg", ("cat",), (n / 100,)) for n in range(100)] + [Prediction("none.jpg", (), ())]
    (title, images), (other, nameless) = prediction_sheet(rows, each=3)
    assert title == "cat: 100 images"
    assert [shown.name for shown in images] == ["99.jpg", "98.jpg", "97.jpg", "0.jpg", "1.jpg", "2.jpg"]
    assert [shown.caption.split()[0] for shown in images] == ["sure"] * 3 + ["unsure"] * 3
    assert (other, nameless[0].name) == (f"{NAMELESS}: 1 image", "none.jpg")
