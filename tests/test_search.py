"""``sslfeat index`` and ``search`` as a user runs them: from images and from features, and what they refuse."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from sslfeat import Index
from tests.conftest import contents, sslfeat, write_tiny


@pytest.fixture(scope="module")
def indexed(image_folder: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index made straight from images. Read only."""
    out = tmp_path_factory.mktemp("indexed") / "an index"
    done = sslfeat("index", image_folder, "--encoder", tiny, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "40 x 8 cosine, Flat" in done.stdout
    assert "exact" in done.stdout
    return out


def test_an_image_finds_itself_and_an_id_does_not(indexed: Path, image_folder: Path, tmp_path: Path) -> None:
    image = sorted(image_folder.rglob("*.jpg"))[7]
    copy = shutil.copy(image, tmp_path / "a query.jpg")
    first, second = json.loads(sslfeat("search", indexed, copy, image, "--top", "3", "--json").stdout)["queries"]
    assert first["hits"][0]["path"] == str(image)
    assert first["hits"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert first["hits"] == second["hits"]
    (by_id,) = json.loads(sslfeat("search", indexed, "--id", image, "-t", "3", "--json").stdout)["queries"]
    assert [hit["path"] for hit in by_id["hits"]][:2] == [hit["path"] for hit in first["hits"]][1:]
    assert first["hits"][0]["label"] == image.parent.name


def test_output_as_paths_table_and_page(indexed: Path, image_folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "found.html"
    table = sslfeat("search", indexed, image_folder / "circles", "--top", "2", "--out", page)
    assert table.stdout.count("[") == 20
    html = page.read_text()
    assert html.count("<figure") == 30
    assert html.count("data:image/webp") == 30
    assert "http" not in html
    paths = sslfeat("search", indexed, image_folder / "circles", "-f", "--top", "2").stdout.splitlines()
    assert len(set(paths)) == len(paths)
    assert all(Path(path).is_file() for path in paths)


def test_conditions_scores_and_broken_queries(indexed: Path, image_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff")
    image = next(image_folder.rglob("*.jpg"))
    done = sslfeat("search", indexed, image, broken, "--where", "label=squares", "--where", "path!~*0.jpg", "--json")
    assert done.returncode == 3
    assert f"{broken}: " in done.stderr
    (found,) = json.loads(done.stdout)["queries"]
    assert {hit["label"] for hit in found["hits"]} == {"squares"}
    assert not any(hit["path"].endswith("0.jpg") for hit in found["hits"])
    nothing = sslfeat("search", indexed, image, "--min-score", "1.5")
    assert "nothing found" in nothing.stdout
    assert sslfeat("search", indexed, broken).returncode == 3


def test_queries_from_features_and_from_another_encoder(indexed: Path, image_folder: Path, tiny: Path, tmp_path: Path) -> None:
    other = write_tiny(tmp_path / "other.onnx", seed=3)
    for name, encoder in (("same", tiny), ("other", other)):
        assert sslfeat("embed", image_folder / "stripes", "--encoder", encoder, "--out", tmp_path / name).returncode == 0
    found = json.loads(sslfeat("search", indexed, tmp_path / "same", "--top", "1", "--json").stdout)["queries"]
    assert len(found) == 10
    assert all(answer["hits"][0]["path"] == answer["query"] for answer in found)
    refused = sslfeat("search", indexed, tmp_path / "other")
    assert refused.returncode == 1
    assert "'other'" in refused.stderr
    assert "'tiny'" in refused.stderr
    given = sslfeat("search", indexed, next(image_folder.rglob("*.jpg")), "--encoder", other)
    assert given.returncode == 1
    assert "is a different encoder" in given.stderr


def test_an_index_follows_its_images(image_folder: Path, tiny: Path, tmp_path: Path) -> None:
    images = shutil.copytree(image_folder, tmp_path / "images")
    out = tmp_path / "index"
    assert sslfeat("index", images, "--encoder", tiny, "--out", out).returncode == 0
    again = sslfeat("index", images, "--encoder", tiny, "--out", out)
    assert again.returncode == 1
    assert "--sync, or replace it with --overwrite" in again.stderr
    gone = sorted(images.rglob("*.jpg"))[:3]
    for path in gone:
        path.unlink()
    shutil.copy(image_folder / "circles" / "circles-0000.jpg", images / "squares" / "new.jpg")
    done = sslfeat("index", images, "--encoder", tiny, "--out", out, "--sync", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["changes"] == {
        "added": 1, "removed": 3, "replaced": 0, "relabeled": 0, "rebuilt": False,
    }  # fmt: skip
    assert len(Index.load(out)) == 38
    removed = sslfeat("index", images / "stripes", "--out", out, "--remove")
    assert "10 removed" in removed.stdout
    assert len(Index.load(out)) == 28
    unknown = sslfeat("index", "nowhere.jpg", "--out", out, "--remove")
    assert unknown.returncode == 1
    assert "no image nowhere.jpg" in unknown.stderr
    back = sslfeat("index", out / "features", "--out", out, "--add")
    assert "10 added" in back.stdout


def test_nothing_is_embedded_for_an_index_that_has_no_place(image_folder: Path, indexed: Path, tiny: Path) -> None:
    before = sorted(image_folder.rglob("*"))
    refused = sslfeat("index", image_folder, "--encoder", tiny, "--out", image_folder)
    assert refused.returncode == 1 and "contains other files" in refused.stderr and "embedded" not in refused.stderr
    assert sorted(image_folder.rglob("*")) == before
    refused = sslfeat("index", image_folder, "--encoder", tiny, "--out", indexed)
    assert refused.returncode == 1 and "already contains an index" in refused.stderr and "embedded" not in refused.stderr


def test_wrong_use_is_named(indexed: Path, image_folder: Path, tmp_path: Path) -> None:
    before = contents(indexed)
    (tmp_path / "page.html").write_text("mine")
    page, features, new = str(tmp_path / "page.html"), indexed / "features", tmp_path / "i"
    for arguments, code, said in (
        (["search", indexed], 2, "give query images"),
        (["search", indexed, "--id", "x", "--top", "0"], 2, "'--top' / '-t'"),
        (["search", indexed, "--id", next(image_folder.rglob("*.jpg")), "--out", page], 2, "--overwrite"),
        (["search", tmp_path, "x.jpg"], 1, "is not an index"),
        (["search", indexed, "--id", "nowhere"], 1, "nowhere is not in the index"),
        (["search", indexed, "--id", os.fsdecode(b"caf\xe9.jpg")], 1, "is not in the index"),
        (["index", image_folder, "--out", image_folder], 1, "contains other files"),
        (["index", features, "--memory", "much", "--out", new], 2, "'much' is not a size"),
        (["index", features, "--kind", "lsh", "--out", new], 2, "'lsh' is not one of"),
        (["index", features, "--metric", "hamming", "--out", new], 2, "'hamming' is not one of"),
        (["index", features, "--recall", "1.5", "--out", new], 2, "recall is 1.5"),
        (["index", image_folder, "--out", indexed, "--add", "--sync"], 2, "mutually exclusive"),
    ):
        done = sslfeat(*map(str, arguments))
        assert done.returncode == code, arguments
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    assert contents(indexed) == before
    assert (tmp_path / "page.html").read_text() == "mine"


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text")
def test_a_name_that_is_no_text_is_found_by_its_bytes_and_as_it_is_shown(image_folder: Path, tiny: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    raw = os.fsencode(images) + b"/caf\xe9.jpg"
    for number, image in enumerate(sorted(image_folder.rglob("*.jpg"))[:3]):
        shutil.copy(image, os.fsdecode(raw) if number == 0 else images / f"{number}.jpg")
    assert sslfeat("index", images, "--encoder", tiny, "--out", tmp_path / "index").returncode == 0
    shown = raw.decode("utf-8", "backslashreplace")
    for name in (os.fsdecode(raw), shown):
        done = sslfeat("search", tmp_path / "index", "--id", name, "--json")
        assert done.returncode == 0, done.stderr
        (answer,) = json.loads(done.stdout)["queries"]
        assert len(answer["hits"]) == 2
        assert shown not in [hit["path"] for hit in answer["hits"]]


def test_a_missing_query_does_not_stop_the_others(indexed: Path, image_folder: Path, tiny: Path, tmp_path: Path) -> None:
    image, gone = image_folder / "circles" / "circles-0000.jpg", tmp_path / "gone.jpg"
    done = sslfeat("search", indexed, image, gone, "--id", "nothing.jpg", "--encoder", tiny, "--json")
    assert done.returncode == 3
    assert [answer["query"] for answer in json.loads(done.stdout)["queries"]] == [str(image)]
    assert f"{gone}: {gone} does not exist" in done.stderr and "nothing.jpg is not in the index" in done.stderr
    near = sslfeat("search", indexed, "--id", "circles/circles-0000.jpg")
    assert (near.returncode, "did you mean '" in near.stderr) == (1, True)
