"""What does not exist, or is of another kind than was asked for, is named with what was meant, before anything is done."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from sslfeat.errors import InputError, RetrievalError
from sslfeat.retrieval.index import Index
from sslfeat.serving.collection import stamp
from sslfeat.storage import atomic
from tests.conftest import contents, sslfeat


@pytest.fixture(scope="module")
def place(image_folder: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, one of them with a space in its name, their features, and an index. Read only."""
    place = tmp_path_factory.mktemp("place")
    (place / "photos").mkdir()
    for number, path in enumerate(sorted(image_folder.rglob("*.jpg"))[:4]):
        shutil.copy(path, place / "photos" / ("new 03.jpg" if number == 3 else f"{number}.jpg"))
    assert sslfeat("embed", "photos", "--encoder", tiny, "--out", "features", cwd=place).returncode == 0
    assert sslfeat("index", "features", "--out", "index", cwd=place).returncode == 0
    return place


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ("search", "features", "photos/0.jpg"),
            1,
            "features is a features folder, not an index: run sslfeat index features --out",
        ),
        (("search", "indx", "photos/0.jpg"), 1, "indx does not exist: did you mean 'index'?"),
        (("search", "photos", "photos/0.jpg"), 1, "photos is not an index"),
        (("search", "index", "photos/new", "03.jpg"), 2, "quote paths with spaces: sslfeat search index 'photos/new 03.jpg'"),
        (("search", "index", "--id", "photos/0.JPG"), 1, "did you mean 'photos/0.jpg'?"),
        (("search", "index", "--id", "0.png"), 1, "did you mean 'photos/0.jpg'?"),
        (("search", "index", "photos/0.jpg", "--out", "nodir/f.html"), 1, "error: the folder nodir does not exist\n"),
        (("map", "features", "--out", "photo/f.html"), 1, "the folder photo does not exist: did you mean 'photos'?"),
        (("report", "features", "--out", "nodir/f.html"), 1, "the folder nodir does not exist"),
        (("dedupe", "features", "--out", "nodir/f.csv"), 1, "the folder nodir does not exist"),
        (("dedupe", "--undo", "moved aside"), 1, "moved aside does not exist: nothing was moved there"),
        (("dedupe", "--decided", "nix.json", "--apply", "aside"), 1, "nix.json does not exist"),
        (("dedupe", "nix.json", "--apply", "aside"), 1, "nix.json does not exist"),
    ],
)
def test_what_was_meant_is_said(place: Path, arguments: Sequence[str], code: int, said: str) -> None:
    before = contents(place)
    done = sslfeat(*arguments, cwd=place)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert contents(place) == before


def test_the_service_says_it_too(place: Path) -> None:
    done = sslfeat("serve", "index", cwd=place)
    assert (done.returncode, "did you mean --index index?" in done.stderr) == (2, True), done.stderr
    assert "did you mean" not in sslfeat("serve", "photos", cwd=place).stderr
    with pytest.raises(RetrievalError, match="is a features folder, not an index"):
        stamp(place / "features")


def test_of_several_names_that_differ_in_case_the_nearest_is_named() -> None:
    index = Index.build([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], ["b/Cat (1).JPG", "b/cat (1).png", "b/acat (1).jpg"])
    with pytest.raises(InputError, match=r"did you mean 'b/cat \(1\)\.png'\?"):
        index.row_of("b/cat (1).jpg")


def test_a_file_of_a_folder_that_is_not_there_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as refused:
        atomic.write_atomic(tmp_path / "nodir" / "page.html", b"")
    assert refused.value.filename == str(tmp_path / "nodir")
