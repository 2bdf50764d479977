"""A saved probe names images and features; encoders are compared on the same images."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from sslfeat.errors import FeaturesError
from sslfeat.evaluation.probing.checkpoint import SavedProbe
from sslfeat.evaluation.probing.logistic import Linear
from sslfeat.evaluation.probing.probe import Probed
from sslfeat.evaluation.probing.run import run_folders
from sslfeat.features.reader import Features
from sslfeat.inference.model_card import Identity
from tests.conftest import sslfeat, write_tiny


def test_probe_out_and_predict(embedded: Path, image_folder: Path, tiny: Path, tmp_path: Path) -> None:
    done = sslfeat("probe", embedded, "--out", tmp_path / "probe")
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "probe").iterdir()}
    assert names == {"probe.json", "weights.npz", "classes.csv", "confusion.csv", "classes.svg", "confusion.svg"}
    rows = list(csv.DictReader((tmp_path / "probe" / "classes.csv").read_text().splitlines()))
    assert sum(int(row["test"]) for row in rows) == 8
    loaded = Features.load(embedded)
    probed = run_folders(loaded)
    assert isinstance(probed, Probed)
    wanted = [probed.names[k] for k in probed.model.scores(loaded.embeddings).argmax(1)]

    broken = tmp_path / "a broken one.jpg"
    broken.write_bytes(b"no image")
    by_features = sslfeat("predict", tmp_path / "probe", embedded, "--json")
    assert by_features.returncode == 0, by_features.stderr
    assert [row["labels"][0] for row in json.loads(by_features.stdout)["predictions"]] == wanted
    out = tmp_path / "named.csv"
    by_images = sslfeat("predict", tmp_path / "probe", image_folder, broken, "--encoder", tiny, "--out", out, "-t", "2")
    assert by_images.returncode == 3, by_images.stderr
    assert "a broken one.jpg: " in by_images.stderr
    named = {row["path"]: row["label"].split(";")[0] for row in csv.DictReader(out.read_text().splitlines())}
    assert named == dict(zip(loaded.paths, wanted, strict=True))
    page = tmp_path / "page.html"
    assert sslfeat("predict", tmp_path / "probe", embedded, "--out", page).returncode == 0
    assert f"{wanted[0]}: {wanted.count(wanted[0])} images" in page.read_text()
    assert str(image_folder.parent) not in page.read_text()


def test_another_encoders_features_and_damaged_probes_are_refused(embedded: Path, image_folder: Path, tmp_path: Path) -> None:
    assert sslfeat("probe", embedded, "--out", tmp_path / "probe").returncode == 0
    other = write_tiny(tmp_path / "other.onnx", seed=5)
    assert sslfeat("embed", image_folder, "--encoder", other, "--out", tmp_path / "c").returncode == 0
    refused = sslfeat("predict", tmp_path / "probe", tmp_path / "c")
    assert refused.returncode == 1
    assert "the probe needs features of tiny" in refused.stderr
    weights = tmp_path / "probe" / "weights.npz"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(FeaturesError, match=r"weights\.npz is damaged"):
        SavedProbe.load(tmp_path / "probe")
    with pytest.raises(FeaturesError, match="is not a probe"):
        SavedProbe.load(tmp_path)


def test_probabilities_of_one_label_and_of_several() -> None:
    rng = np.random.default_rng(0)
    model = Linear(*(rng.normal(size=size).astype(np.float32) for size in (4, (4, 3), 3)))
    x = rng.normal(0, 30, (5, 4)).astype(np.float32)
    z = ((x - model.mean) @ model.weights + model.bias).astype(np.float64)
    one, several = (SavedProbe(model, ["a", "b", "c"], Identity("a", "f"), flag, {}).probabilities(x) for flag in (False, True))
    assert one == pytest.approx(np.exp(z) / np.exp(z).sum(1, keepdims=True), abs=1e-5)
    assert several == pytest.approx(1 / (1 + np.exp(-z)), abs=1e-5)
    with pytest.raises(FeaturesError, match=r"\(5, 3\): the probe needs \(N, 4\)"):
        SavedProbe(model, ["a", "b", "c"], Identity("a", "f"), False, {}).probabilities(x[:, :3])


def test_encoders_are_compared_on_the_same_images(image_folder: Path, tiny: Path, tmp_path: Path) -> None:
    other = write_tiny(tmp_path / "other.onnx", seed=5)
    options = ("--encoder", tiny, "--encoder", other, "--work", tmp_path / "work")
    done = sslfeat("probe", image_folder, image_folder, *options, "--json")
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)["encoders"]
    assert first["against_first"] is None
    difference = second["linear"]["top1"] - first["linear"]["top1"]
    assert second["against_first"]["difference"] == pytest.approx(difference)
    again = sslfeat("probe", image_folder, *options[:2], *options[:2])
    assert again.returncode == 2
    assert "given twice" in again.stderr


def test_the_better_encoder_is_named_first_with_its_gain() -> None:
    from sslfeat.cli.probe import _against
    from sslfeat.evaluation.probing.bootstrap import Paired

    worse = _against("mine", "theirs", Paired(-0.05, -0.08, -0.02, 60, 10, 1e-6))
    assert worse == "theirs is 5.00 points better than mine [+2.00, +8.00] (McNemar p = 1e-06; only one correct: 60 against 10)"
    better = _against("mine", "theirs", Paired(0.01, -0.02, 0.04, 9, 10, 0.6))
    assert better.startswith("mine is 1.00 points better than theirs [-2.00, +4.00] (McNemar p = 0.6; only one")
    assert better.endswith(": not significant")
    assert _against("mine", "theirs", Paired(0, -0.02, 0.02, 5, 5, 1)).startswith("mine and theirs are equally good")
