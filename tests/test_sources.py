"""Images where features are wanted are embedded first; what is in the wrong place is named, with the line that was meant."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from sslfeat.cli.sources import CONFIG, MARKS, check_images, check_order, features_folder, kind_of
from sslfeat.data.dataset import find_inputs
from sslfeat.errors import InputError, UsageError
from sslfeat.features.reader import Features
from tests.in_process import run


@pytest.fixture
def index(embedded: Path, tmp_path: Path) -> Path:
    assert run("index", embedded, "--out", tmp_path / "an index").returncode == 0
    return tmp_path / "an index"


def test_what_a_folder_is(embedded: Path, index: Path, tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    assert [kind_of(path) for path in (embedded, index, tiny, image_folder, tmp_path / "nothing")] == [
        "features", "index", "encoder", None, None,
    ]  # fmt: skip
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    assert kind_of(tmp_path / "run") == "run"


def test_images_are_embedded_and_kept_up_to_date(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tmp_path / "photos"
    shutil.copytree(image_folder / "circles", images)
    (images / "broken.jpg").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    folder, failed = features_folder(images)
    assert (folder, failed) == (Path("photos-features"), 1)
    before = Features.load(folder)
    shutil.copy(image_folder / "squares" / "squares-0000.jpg", images / "z.jpg")
    assert features_folder(images) == (folder, 1)
    after = Features.load(folder)
    assert len(after.paths) == len(before.paths) + 1
    np.testing.assert_array_equal(after.embeddings[:-1], before.embeddings)
    assert features_folder(folder) == (folder, 0)


def test_a_command_given_images(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad").mkdir()
    shutil.copytree(image_folder / "circles", tmp_path / "bad" / "circles")
    (tmp_path / "bad" / "broken.jpg").write_bytes(b"no image")
    done = run("cluster", "bad", "-k", "2")
    assert done.returncode == 3, done.stderr  # it did what it could, and one image could not be read
    assert "sslfeat embed bad --out bad-features --encoder NAME" in done.stderr
    assert "1 image could not be read" in done.stderr
    assert "clusters: 2 clusters" in done.stdout


def test_what_is_neither(tmp_path: Path, index: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not a features folder, and cannot be read as images: no images found in"):
        features_folder(tmp_path / "empty")
    with pytest.raises(InputError, match="its kind is 'index'"):
        features_folder(index)


def test_wrong_order(index: Path, tiny: Path, embedded: Path) -> None:
    with pytest.raises(UsageError, match=r"which must come first: sslfeat search '.*an index' a\.jpg b\.jpg"):
        check_order("search", "index", "a.jpg", [str(index), "b.jpg"])
    check_order("search", "index", index, ["a.jpg"])
    check_order("search", "index", "a.jpg", ["b.jpg"])
    with pytest.raises(UsageError, match=f"sslfeat embed IMAGES --encoder {tiny}"):
        check_images("embed", ["photos", str(tiny)])
    with pytest.raises(UsageError, match=f"sslfeat index {embedded} --out INDEX"):
        check_images("embed", [str(embedded)])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "images", "simclr"), "sslfeat train simclr images"),
        (("train", "simclp", "images"), "did you mean 'simclr'?"),
        (("embed", "images", "--encoder", "sslfeat-smal"), "did you mean 'sslfeat-small'?"),
        (("clustr", "images"), "Did you mean 'cluster'?"),
    ],
)
def test_what_was_meant(
    arguments: tuple[str, ...], said: str, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images").symlink_to(image_folder)
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.returncode in (1, 2)
    assert said in done.stderr


def test_marks_are_those_of_the_packages() -> None:
    from sslfeat.evaluation.clustering.storage import TABLE
    from sslfeat.evaluation.probing.checkpoint import META as PROBE
    from sslfeat.export.artifact import ABOUT
    from sslfeat.features.metadata import RUN_NAME
    from sslfeat.models.engine.config import CONFIG_NAME
    from sslfeat.retrieval.storage import META

    kinds = ("index", "features", "probe", "clusters", "target", "run")
    assert dict(zip(kinds, (META, RUN_NAME, PROBE, TABLE, ABOUT, CONFIG_NAME), strict=True)) == MARKS
    assert CONFIG == CONFIG_NAME


@pytest.mark.parametrize("command", ["embed", "index"])
def test_no_cure_aims_at_the_features(command: str, tmp_path: Path) -> None:
    (tmp_path / "__sslfeat__").mkdir()
    (tmp_path / "__sslfeat__" / "features.json").touch()
    with pytest.raises(UsageError) as error:
        check_images(command, ["photos", str(tmp_path)])
    assert error.value.cure == f"sslfeat index {tmp_path} --out INDEX"


def test_a_name_that_was_not_quoted_or_nearly_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my photos").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="'my photos' exists: quote paths with spaces: sslfeat embed a 'my photos' b"):
        check_images("embed", ["a", "my", "photos", "b"])
    check_images("embed", ["my photos"])
    with pytest.raises(InputError, match=r"my fotos does not exist \(did you mean 'my photos'\?\)"):
        find_inputs(["my fotos"])
