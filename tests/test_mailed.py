"""What leaves this machine or replaces a file: pages without its folders, with hostile names escaped, and nothing overwritten."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sslfeat.cli.probe import FILES
from sslfeat.errors import FeaturesError, InputError
from sslfeat.evaluation.clustering.storage import read_clusters
from sslfeat.evaluation.embedding_map import make_map
from sslfeat.evaluation.probing.checkpoint import SavedProbe
from sslfeat.numerics.sampling import sample
from sslfeat.reports.display_names import short_names
from sslfeat.reports.gallery import Shown, gallery
from sslfeat.reports.map_view import map_page, map_view
from tests.conftest import sslfeat

HOSTILE = "</script><img src=x onerror=alert(1)>\"'.jpg"


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["b.jpg", "a.jpg"], ["b.jpg", "a.jpg"]),
        (["cat/0.jpg", "owl/0.jpg"], ["cat/0.jpg", "owl/0.jpg"]),
        (["cat/0.jpg", "dog.jpg"], ["cat/0.jpg", "dog.jpg"]),
        (["/home/me/cat/0.jpg", "/home/me/owl/0.jpg"], ["cat/0.jpg", "owl/0.jpg"]),
        (["/home/me/0.jpg"], ["0.jpg"]),
        (["/a/0.jpg", "/b/0.jpg"], ["a/0.jpg", "b/0.jpg"]),
        (["/0.jpg", "/b/0.jpg"], ["0.jpg", "b/0.jpg"]),
        (["/home/me/x/0.jpg", "y/0.jpg", "y/1.jpg"], ["0.jpg", "0.jpg", "1.jpg"]),
        (["pics/ab/0.jpg", "pics/ac/0.jpg"], ["ab/0.jpg", "ac/0.jpg"]),
        ([], []),
    ],
)
def test_names_lose_the_common_folder_and_no_letter_more(paths: list[str], names: list[str]) -> None:
    assert short_names(paths) == names


def test_maps_name_images_whole() -> None:
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    paths = ["cat.jpg", "dog.jpg", "owl.jpg", "pig.jpg"]
    assert map_view(make_map(x, paths, [None] * 4))["names"] == paths


def test_pages_hold_no_folder_of_this_machine(embedded: Path, image_folder: Path, tmp_path: Path) -> None:
    commands = (
        (("report", embedded, "--out", tmp_path / "page.html"), tmp_path / "page.html"),
        (("cluster", embedded, "-k", "3", "--out", tmp_path / "c", "--page"), tmp_path / "c" / "clusters.html"),
    )
    for command, page in commands:
        assert sslfeat(*command).returncode == 0
        html = page.read_text()
        assert str(image_folder.parent) not in html
        assert "circles/circles-0" in html
    assert sslfeat("map", embedded, "--out", tmp_path / "map.html").returncode == 0
    assert str(image_folder.parent) not in (tmp_path / "map.html").read_text()


def test_hostile_names_are_text() -> None:
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    names = [f"{number}{HOSTILE}" for number in range(4)]
    found = make_map(x, names, [HOSTILE] * 4)
    pages = map_page(HOSTILE, HOSTILE, found), gallery(HOSTILE, HOSTILE, [(HOSTILE, [Shown(names[0], HOSTILE)])])
    for page in pages:
        assert "<img src=x" not in page
        assert "</script><" not in page.replace("</script>\n", "")
        assert "onerror=alert" in page  # as text


def test_a_sample_is_of_all_rows() -> None:
    rows = sample(39_999, 20_000)
    assert len(set(rows.tolist())) == 20_000
    assert (np.diff(rows) > 0).all()
    assert np.histogram(rows, 10, (0, 39_999))[0].min() > 1800
    assert not (np.diff(rows) == 2).all()
    assert np.array_equal(rows, sample(39_999, 20_000))
    assert not np.array_equal(rows, sample(39_999, 20_000, 1))
    assert sample(5, 20).tolist() == [0, 1, 2, 3, 4]


def test_files_are_replaced_only_when_told(embedded: Path, tmp_path: Path) -> None:
    probe, page = tmp_path / "probe", tmp_path / "page.html"
    commands = (
        (("report", embedded, "--out", page), page),
        (("map", embedded, "--out", tmp_path / "map.html"), tmp_path / "map.html"),
        (("probe", embedded, "--out", probe), probe / "classes.csv"),
        (("predict", probe, embedded, "--out", tmp_path / "named.csv"), tmp_path / "named.csv"),
    )
    for command, file in commands:
        assert sslfeat(*command).returncode == 0
        file.write_text("mine")
        refused = sslfeat(*command)
        assert (refused.returncode, file.read_text()) == (2, "mine")
        assert f"{probe / 'probe.json' if command[0] == 'probe' else file} exists" in refused.stderr
        assert sslfeat(*command, "--overwrite").returncode == 0
        assert file.read_text() != "mine"


WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"matplotlib", "sklearn", "scipy"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from sslfeat.cli.app import main
main()
"""


def bare(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command line where the extra ``probe`` is not installed."""
    command = [sys.executable, "-c", WITHOUT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=cwd)


def test_without_the_extra_each_does_what_it_can(embedded: Path, tmp_path: Path) -> None:
    found = bare("cluster", embedded, "-k", "4", "--out", tmp_path / "c")
    assert found.returncode == 0, found.stderr
    figures = json.loads((tmp_path / "c" / "clusters.json").read_text())
    assert figures["labels"]["accuracy"] is None
    assert -1 <= figures["silhouette"] <= 1
    assert 0 < figures["labels"]["nmi"] <= 1
    assert "accuracy is omitted" in found.stderr
    assert "pip install" in found.stderr
    mapped = bare("map", embedded, "--json", cwd=tmp_path)
    assert mapped.returncode == 0, mapped.stderr
    assert json.loads(mapped.stdout)["files"] == ["map.html"]
    assert "map.png: this needs the package 'matplotlib': pip install" in mapped.stderr
    assert json.loads(mapped.stdout)["left_out"]
    probed = bare("probe", embedded, "--out", tmp_path / "p")
    assert probed.returncode == 0, probed.stderr
    plots = {"classes.svg", "confusion.svg"}
    assert {file.name for file in (tmp_path / "p").iterdir()} == set(FILES) == {*FILES[:4], *plots}
    assert bare("report", embedded, "--out", tmp_path / "page.html").returncode == 0
    html = (tmp_path / "page.html").read_text()
    assert "nearest class mean" in html
    assert html.count("<svg") == 2


@pytest.fixture(scope="module")
def saved(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "probe"
    assert sslfeat("probe", embedded, "--out", folder).returncode == 0
    return folder


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("names", "abcd", "names is 'abcd', not"),
        ("names", ["a", "a", "b", "c"], "names are empty, or contain duplicates"),
        ("names", ["a", "b"], "does not match"),
        ("encoder", {"name": "x"}, "'fingerprint' is missing"),
        ("encoder", {"name": 5, "fingerprint": "f"}, "encoder: name is 5, not str"),
        ("several", "no", "several is 'no', not bool"),
        ("figures", [], "figures is a list of 0"),
        ("sha256", None, "sha256 is None"),
        ("format", 99, "format 99"),
        ("extra", 1, "'extra' is no field"),
    ],
)
def test_a_probe_whose_fields_lie_is_refused_by_name(
    saved: Path, tmp_path: Path, field: str, value: object, message: str
) -> None:
    folder = shutil.copytree(saved, tmp_path / "probe")
    meta = json.loads((folder / "probe.json").read_text())
    (folder / "probe.json").write_text(json.dumps({**meta, field: value}))
    with pytest.raises(FeaturesError, match=message):
        SavedProbe.load(folder)


@pytest.mark.parametrize("kind", ["objects", "text", "nan", "packed", "other", "none", "nothing"])
def test_weights_that_lie_behind_a_true_hash(saved: Path, tmp_path: Path, kind: str) -> None:
    from sslfeat.storage import atomic

    folder = shutil.copytree(saved, tmp_path / "probe")
    with np.load(folder / "weights.npz") as arrays:
        good = dict(arrays)
    file = folder / "weights.npz"
    if kind == "packed":
        np.savez_compressed(file, **good)
    elif kind == "other":
        np.savez(file, mean=good["mean"])
    elif kind == "none":
        file.write_bytes(b"PK\x03\x04 nothing")
    elif kind == "nothing":
        file.write_bytes(b"")
    else:
        bias = {
            "objects": np.array([{}] * 4, object),
            "text": np.array(["1"] * 4),
            "nan": good["bias"] * np.float32(np.nan),
        }
        np.savez(file, **{**good, "bias": bias[kind]})
    meta = json.loads((folder / "probe.json").read_text())
    (folder / "probe.json").write_text(json.dumps({**meta, "sha256": atomic.sha256_file(file)}))
    with pytest.raises(FeaturesError, match="was not made by 'sslfeat probe --out'"):
        SavedProbe.load(folder)


def test_tables_of_clusters_that_lie(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    for cluster in (pa.array(["0"]), pa.array([None], pa.int32()), pa.array([-7]), pa.array([0.5])):
        parquet.write_table(pa.table({"path": ["a"], "cluster": cluster}), tmp_path / "clusters.parquet")
        with pytest.raises(InputError, match="is not a cluster table: "):
            read_clusters(tmp_path, ["a"])
