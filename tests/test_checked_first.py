"""Commands that embed images first refuse what they can before that: no features are made for a mistake in the line."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from sslfeat.inference.encoder import Encoder
from tests.in_process import run

WRONG = {  # what is said, by the line that has a mistake
    "score photos nothing-here": "nothing-here",
    "score photos an-index": "its kind is 'index'",
    "score damaged photos": "features.json is damaged",
    "score photos": "more images than units are needed",
    "report photos --labels nothing.csv": "nothing.csv",
    "report photos --labels table.csv --column kind": "no column 'kind'",
    "report photos --labels strangers.csv": "no label for any",
    "report photos --limit 5": "at least 10 images",
    "report photos --out nowhere/page.html": "nowhere",
    "cluster photos -k 0": "must be at least 2",
    "cluster photos -k 500": "too few for 500 clusters",
    "cluster photos --restarts 0": "restarts 0",
    "cluster photos --links other": "new folder",
    "cluster photos --out photos": "not empty",
    "map photos --limit 2": "at least 3 images",
    "map photos --labels nothing.csv": "nothing.csv",
    "map photos --color cluster --clusters nothing": "not a cluster table",
    "map photos --color towm": "photos has no such column",
    "map photos --projection umap": "umap-learn",
    "map photos --out page.pdf": ".html or .png",
    "map one": "a map needs at least 3",
    "dedupe photos --threshold 2": "a cosine above 0",
    "dedupe photos --out groups.txt": ".csv or .html",
    "dedupe photos --apply photos/aside --yes": "would be embedded again",
    "probe photos --labels nothing.csv": "nothing.csv",
    "probe photos/circles": "a probe needs at least two",
    "probe photos --min-images 500": "a probe needs at least two",
    "probe photos nothing-here": "nothing-here",
    "probe photos one": "a probe needs at least two",
    "probe photos other/photos": "would both be embedded into photos-features",
    "probe photos --folds 1": "at least two",
    "probe photos/circles --encoder sslfeat-tiny": "a probe needs at least two",
    "probe photos --encoder sslfeat-tiny --labels several.csv --separator |": "one label per image",
    "predict nothing photos": "nothing",
    "search an-index photos --where year=2020": "unknown field 'year'",
    "search an-index photos --where label": "'label' is invalid",
    "search an-index photos --out page.txt": ".html",
    "index photos --recall 2": "recall",
    "index photos --memory much": "--memory",
    "index photos --out photos": "photos",
    "embed photos --out photos": "photos",
    "embed photos --every often": "often",
    "compare sslfeat-tiny nothing.onnx --images photos": "nothing.onnx",
    "compare sslfeat-tiny sslfeat-tiny --images nothing-here": "nothing-here",
    "train distill photos --teacher nothing.onnx": "nothing.onnx",
    "train simclr photos --probe-data photos/circles": "class folders",
}


@pytest.fixture(scope="module")
def world(image_folder: Path, embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in ``photos``, in other folders, and what the lines above name besides."""
    place = tmp_path_factory.mktemp("world")
    for name in ("photos", "other/photos"):
        shutil.copytree(image_folder, place / name)
    (place / "one" / "circles").mkdir(parents=True)
    first = next((image_folder / "circles").iterdir())
    shutil.copy(first, place / "one" / "circles")
    (place / "table.csv").write_text(f"path,label\n{first.name},round\n")
    (place / "strangers.csv").write_text("path,label\nstranger.jpg,round\n")
    (place / "several.csv").write_text(f"path,label\n{first.name},round|blue\n")
    shutil.copytree(embedded, place / "damaged")
    (place / "damaged" / "__sslfeat__" / "features.json").write_text("{")
    assert run("index", embedded, "--out", place / "an-index").returncode == 0
    return place


@pytest.mark.parametrize("line", WRONG)
def test_a_mistake_is_found_before_anything_is_embedded(line: str, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def embeds(self: Encoder, pixels: object) -> None:
        pytest.fail("an encoder was run")

    monkeypatch.chdir(world)
    monkeypatch.setattr(Encoder, "run", embeds)
    monkeypatch.setattr("sslfeat.evaluation.projection.find_spec", lambda name: None if name == "umap" else find_spec(name))
    before = sorted(world.iterdir())
    ended = run(*line.split())
    assert ended.returncode in (1, 2), ended.stderr
    assert WRONG[line] in ended.stderr
    assert "embedded" not in ended.stdout and "embedded first" not in ended.stderr
    left = [path.name for path in sorted(world.iterdir()) if path not in before]
    assert not [name for name in left if "features" in name], left
