"""Clusters: found where they are, as tight as scikit-learn's, judged by its metrics, kept as a table, links and a page."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from sklearn.cluster import KMeans as Reference

from sslfeat.errors import FeaturesError, InputError
from sslfeat.evaluation.clustering import clustering, metrics
from sslfeat.evaluation.clustering.clustering import ClusterOptions, cluster
from sslfeat.evaluation.clustering.storage import link, read_clusters
from sslfeat.numerics.arrays import FloatArray
from sslfeat.numerics.kmeans import kmeans
from sslfeat.reports.contact_sheet import contact_sheet
from tests.conftest import sslfeat


def blobs(count: int, groups: int, spread: float, seed: int = 0, dim: int = 12) -> tuple[FloatArray, list[str]]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, groups, count)
    x = rng.normal(size=(groups, dim))[y] + rng.normal(0, spread, (count, dim))
    return x.astype(np.float32), [f"g{number}" for number in y]


@pytest.mark.parametrize("spread", [0.3, 1.0])
def test_inertia_is_scikit_learns(spread: float) -> None:
    x, _ = blobs(3000, 12, spread)
    wanted = Reference(12, n_init=10, random_state=0).fit(x).inertia_
    found = kmeans(x, 12, restarts=10)
    assert found.inertia <= 1.01 * wanted
    naive = np.square(x[:, None].astype(np.float64) - found.centers[None]).sum(2)
    assert (naive.argmin(1) == found.assignments).mean() > 0.999
    assert found.inertia == pytest.approx(naive.min(1).sum(), rel=1e-4)
    assert np.array_equal(kmeans(x, 12, restarts=10).assignments, found.assignments)


def test_spherical_centers_are_of_unit_length() -> None:
    x, y = blobs(600, 5, 0.2)
    stretched = x * np.random.default_rng(1).uniform(0.1, 10, (600, 1)).astype(np.float32)
    found = cluster(stretched, ClusterOptions(k=5, spherical=True, restarts=5))
    assert np.linalg.norm(found.centers, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    assert found.figures(y)["labels"]["accuracy"] > 0.99


def test_separate_groups_are_found_and_counted() -> None:
    x, y = blobs(1200, 6, 0.1)
    found = cluster(x)
    assert len(found.centers) == 6
    assert max(found.tried, key=lambda k: found.tried[k]) == 6
    judged = found.figures(y)
    assert judged["labels"] == pytest.approx({"images": 1200, "nmi": 1, "ari": 1, "accuracy": 1, "purity": 1})
    assert found.stability == pytest.approx(1)
    assert found.sizes == sorted(found.sizes, reverse=True)
    assert sum(found.sizes) == 1200


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("method", ["hdbscan", "agglomerative"])
def test_the_other_methods_find_them_too(method: str, sampled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = blobs(900, 4, 0.1)
    if sampled:
        monkeypatch.setattr(clustering, "LARGEST", 300)
    found = cluster(x, ClusterOptions(method, k=4, reduce=5))
    assert found.sampled == (300 if sampled else None)
    assert found.figures(y)["labels"]["purity"] > 0.99
    assert len(found.centers) == 4
    inside = found.assignments >= 0
    wanted = np.linalg.norm(x[inside] - found.centers[found.assignments[inside]], axis=1)
    assert found.distances[inside] == pytest.approx(wanted, rel=1e-5)
    assert np.isnan(found.distances[~inside]).all()


def test_far_points_are_noise_to_hdbscan() -> None:
    x, _ = blobs(300, 3, 0.05)
    x[:5] += np.random.default_rng(3).normal(0, 50, (5, 12))
    found = cluster(x, ClusterOptions("hdbscan", reduce=12))
    assert set(np.flatnonzero(found.assignments == -1)) >= set(range(5))
    assert found.figures()["noise"] >= 5


def test_agreement_against_naive_computations() -> None:
    rng = np.random.default_rng(0)
    labels = [None if value == 3 else "abc"[value] for value in rng.integers(0, 4, 60)]
    found = rng.integers(-1, 3, 60)
    judged = metrics.agreement(found, labels)
    assert judged is not None
    pairs = [(c, y) for c, y in zip(found.tolist(), labels, strict=True) if c >= 0 and y is not None]
    assert judged.images == len(pairs)
    best = max(sum(dict(zip(range(3), order, strict=True))[c] == y for c, y in pairs) for order in itertools.permutations("abc"))
    assert judged.accuracy == pytest.approx(best / len(pairs))
    commonest = [max(sum(p == (c, y) for p in pairs) for y in "abc") for c in range(3)]
    assert judged.purity == pytest.approx(sum(commonest) / len(pairs))
    same = [(a[0] == b[0], a[1] == b[1]) for a, b in itertools.combinations(pairs, 2)]
    both, clusters, classes = (sum(map(f, same)) for f in (all, lambda p: p[0], lambda p: p[1]))
    chance = clusters * classes / len(same)
    assert judged.ari == pytest.approx((both - chance) / ((clusters + classes) / 2 - chance))
    assert metrics.agreement(found, [None] * 60) is None


@pytest.mark.parametrize(("clusters", "classes"), [(2, 9), (9, 2), (5, 5), (1, 4), (1, 1), (60, 3)])
def test_nmi_and_ari_are_scikit_learns(clusters: int, classes: int) -> None:
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    rng = np.random.default_rng(clusters)
    y = np.minimum(rng.geometric(0.4, 200), classes) - 1  # of uneven sizes
    found = np.where(rng.random(200) < 0.5, y % clusters, rng.integers(0, clusters, 200))
    judged = metrics.agreement(found, [f"c{number}" for number in y])
    assert judged is not None
    assert judged.nmi == pytest.approx(normalized_mutual_info_score(y, found), abs=1e-12)
    assert judged.ari == pytest.approx(adjusted_rand_score(y, found), abs=1e-12)
    assert metrics.stability([found, y]) == pytest.approx(judged.ari)


def test_silhouette_against_the_naive_one() -> None:
    x, _ = blobs(60, 3, 0.8)
    found = cluster(x, ClusterOptions(k=3))
    values = []
    for i in range(60):
        mean = [
            np.mean([np.linalg.norm(x[i] - x[j]) for j in range(60) if found.assignments[j] == c and j != i]) for c in range(3)
        ]
        own = mean.pop(int(found.assignments[i]))
        values.append((min(mean) - own) / max(own, min(mean)))
    assert found.silhouette == pytest.approx(np.mean(values), abs=1e-5)


@pytest.mark.parametrize("spherical", [False, True])
def test_odd_ones_are_nearly_as_near_to_another_center(spherical: bool) -> None:
    x, y = blobs(90, 2, 0.2)
    x[0] = 0.5 * (x[[label == "g0" for label in y]].mean(0) + x[[label == "g1" for label in y]].mean(0))
    found = cluster(x, ClusterOptions(k=2, spherical=spherical))
    sections = contact_sheet(found, [str(row) for row in range(90)], y, each=5)
    assert [title.split(":")[0] for title, _ in sections] == ["cluster 0", "cluster 1"]
    number = int(found.assignments[0])
    odd = [shown.name for shown in sections[number][1] if shown.caption.startswith("odd")]
    assert odd[0] == "0"
    for _, images in sections:
        assert len({shown.name for shown in images}) == len(images) == 15
    near = [float(shown.caption.split()[1]) for shown in sections[0][1] if shown.caption.startswith("near")]
    assert near == sorted(near)
    assert near[0] == pytest.approx(found.distances[found.assignments == 0].min(), rel=1e-2)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (np.ones((50, 4), np.float32), {}, "all features are identical"),
        (np.full((50, 4), np.nan, np.float32), {}, "not finite"),
        (blobs(5, 2, 1)[0], {"k": 8}, "too few for 8 clusters"),
        (blobs(0, 2, 1)[0], {}, "too few for 2 clusters"),
    ],
)
def test_features_that_have_no_clusters(x: FloatArray, options: dict[str, int], message: str) -> None:
    with pytest.raises(FeaturesError, match=message):
        cluster(x, ClusterOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"k": 1}, {"method": "magic"}, {"restarts": 0}, {"spherical": True, "method": "hdbscan"}])
def test_wrong_options(options: dict[str, int]) -> None:
    with pytest.raises(InputError):
        ClusterOptions(**options)  # type: ignore[arg-type]


def test_links_keep_images_of_one_name_apart(tmp_path: Path) -> None:
    for folder in ("a", "b b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jpg").write_text(folder)
    paths = [str(tmp_path / "a" / "x.jpg"), str(tmp_path / "b b" / "x.jpg"), str(tmp_path / "gone.jpg")]
    x = np.array([[0, 0], [0, 0.1], [5, 5]], np.float32)
    found = cluster(x, ClusterOptions(k=2))
    assert link(tmp_path / "links", found, paths) == [paths[2]]
    pair = sorted((tmp_path / "links" / "cluster-000").iterdir())
    assert [file.read_text() for file in pair] == ["b b", "a"]
    with pytest.raises(InputError, match="exists"):
        link(tmp_path / "links", found, paths)


def test_the_command(embedded: Path, tmp_path: Path) -> None:
    out, links, page = tmp_path / "found ones", tmp_path / "links", tmp_path / "found ones" / "clusters.html"
    command = ("cluster", embedded, "-k", "4", "--out", out)
    done = sslfeat(*command, "--links", links, "--page", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["clusters"] == 4
    assert figures["labels"]["images"] == 40
    kept = json.loads((out / "clusters.json").read_text())
    assert kept == {name: figures[name] for name in kept} | {"encoder": "tiny"}
    table = parquet.read_table(out / "clusters.parquet")
    assert table.column_names == ["path", "cluster", "distance", "other", "label"]
    assert np.bincount(table["cluster"]).tolist() == figures["sizes"]
    assert np.load(out / "centers.npy").shape == (4, 8)
    assert sum(1 for file in links.rglob("*") if file.is_symlink() and file.exists()) == 40
    assert page.read_text().count("data:image") > 20
    names = read_clusters(out, table["path"].to_pylist())
    assert [int(name) for name in names] == table["cluster"].to_pylist()

    again = sslfeat(*command)
    assert again.returncode == 1
    assert "--overwrite" in again.stderr
    assert "silhouette" in sslfeat(*command, "--overwrite").stdout
    assert "is neither a number nor auto" in sslfeat("cluster", embedded, "--k", "few").stderr
    assert "not empty: choose another" in sslfeat("cluster", embedded, "--out", embedded).stderr
    with pytest.raises(InputError, match="no cluster for 1 of 1"):
        read_clusters(out, ["another"])
    with pytest.raises(InputError, match="not a cluster table"):
        read_clusters(page, ["another"])


def test_clusters_that_hold_few_of_the_images_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two dense groups in a cloud that belongs nowhere: their own silhouette is high, and says nothing of the whole."""
    from sslfeat.cli.cluster import _say

    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    dense = np.concatenate([rng.normal(place, 0.01, (15, 4)) for place in (-3, 3)])
    x = np.concatenate([dense, rng.uniform(-40, 40, (200, 4))]).astype(np.float32)
    found = cluster(x, ClusterOptions(method="hdbscan"))
    assert found.noise > 150 and len(found.centers) >= 2
    assert math.isnan(found.silhouette)
    assert metrics.silhouette(x, found.assignments) > 0.3  # of the rest, which is not what is reported
    _say(found, None, tmp_path / "c")
    told = capsys.readouterr().out
    assert f"{found.noise} of 230 images in no cluster" in told
    assert "silhouette 0" not in told
    few = cluster(dense.astype(np.float32), ClusterOptions(method="hdbscan"))
    assert few.noise < 15 and few.silhouette > 0.9


def test_clusters_that_are_none_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sslfeat.cli.cluster import _say

    found = cluster(np.random.default_rng(0).normal(size=(300, 30)).astype(np.float32), ClusterOptions(k=5))
    _say(replace(found, tried={2: 0.1, 5: 0.2}, silhouette=0.02, stability=0.3), None, tmp_path)
    told = capsys.readouterr().err
    assert "largest at 5, the maximum tried" in told
    assert "not as classes" in told
