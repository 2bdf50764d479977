"""``sslfeat serve`` with an index that is updated while it is served, changed image files, a given map, and another encoder."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from pyarrow import parquet

from sslfeat import Index
from tests.conftest import sslfeat, write_tiny
from tests.serving import images, make_index, running

__all__ = ["images"]


def test_the_index_is_exchanged_without_a_request_lost(
    tmp_path: Path, image_folder: Path, tiny: Path, images: list[Path]
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(image_folder, folder)
    index = tmp_path / "index"
    assert sslfeat("index", folder, "--encoder", tiny, "--out", index).returncode == 0
    with running("--index", index) as service, service.client() as client:
        before = client.get("/v1/info").json()["index"]
        assert before["images"] == 40
        old = {"revision": before["revision"]}
        assert client.post("/v1/search", params=old, json={"id": 0}).json()["revision"] == before["revision"]
        shutil.copy(images[0], folder / "circles" / "another.jpg")
        assert sslfeat("index", folder, "--encoder", tiny, "--out", index, "--sync").returncode == 0
        for _ in range(600):
            assert client.post("/v1/search", json={"id": 0}).status_code == 200
            if client.get("/v1/info").json()["index"]["images"] == 41:
                break
            time.sleep(0.05)
        assert client.get("/v1/info").json()["index"]["images"] == 41
        assert client.post("/v1/search", json={"path": str(folder / "circles/another.jpg")}).json()["hits"]
        now = {"revision": client.get("/v1/info").json()["index"]["revision"]}
        for method, place, body in (
            ("POST", "/v1/search", {"id": 0}), ("POST", "/v1/images", {"ids": [0]}), ("GET", "/v1/images/0", None),
            ("GET", "/v1/map", None), ("GET", "/v1/duplicates", None),
        ):  # fmt: skip
            answer = client.request(method, place, params=old, json=body)
            assert (answer.status_code, "has been updated" in answer.json()["error"]) == (409, True), place
            assert "reload" in answer.json()["cure"]
            assert client.request(method, place, params=now, json=body).status_code == (404 if "dup" in place else 200)


def test_changed_files_are_not_shown_and_a_map_can_be_given(
    tmp_path: Path, image_folder: Path, tiny: Path, images: list[Path]
) -> None:
    folder, index = tmp_path / "images", tmp_path / "index"
    shutil.copytree(image_folder, folder)
    assert sslfeat("index", folder, "--encoder", tiny, "--out", index).returncode == 0
    drawn = sslfeat("map", index / "features", "--out", tmp_path / "map.parquet")
    assert drawn.returncode == 0, drawn.stderr
    changed, gone, linked = (folder / path.relative_to(image_folder) for path in images[:3])
    shutil.copy(images[5], changed)
    gone.unlink()
    linked.unlink()
    linked.symlink_to("/etc/passwd")
    with running("--index", index, "--map", tmp_path / "map.parquet") as service, service.client() as client:
        for path, said in ((changed, "has changed since it was indexed"), (gone, "cannot be shown"), (linked, "cannot be shown")):
            hits = client.post("/v1/search", json={"path": str(path), "top": 1}).json()["hits"]
            row = Index.load(index).row_of(str(path))
            answer = client.get(f"/v1/images/{row}")
            assert answer.status_code == 404
            assert said in answer.json()["error"]
            assert hits
        points = client.get("/v1/map").json()
        table = parquet.read_table(tmp_path / "map.parquet")
        assert points["x"] == pytest.approx(table["x"].to_pylist(), abs=1e-3)
        assert points["y"] == pytest.approx(table["y"].to_pylist(), abs=1e-3)
    assert sslfeat("serve", "--index", index, "--map", changed, "--port", "0").returncode == 1


def test_another_encoders_index_is_refused(embedded: Path, tmp_path: Path) -> None:
    index = make_index(embedded, tmp_path / "index")
    other = write_tiny(tmp_path / "other.onnx", seed=3)
    done = sslfeat("serve", "--index", index, "--encoder", other, "--port", "0")
    assert done.returncode == 1
    assert "features cannot be compared" in done.stderr
    printed = sslfeat("serve", "--encoder", other, "--print-openapi")
    assert json.loads(printed.stdout)["openapi"].startswith("3.")
