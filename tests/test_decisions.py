"""Duplicates decided pair by pair: what the page of ``sslfeat serve`` writes is what ``sslfeat dedupe`` carries out."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from sslfeat.dedup.decisions import Decision, decide, read_duplicates, write_duplicates
from sslfeat.dedup.near_duplicates import Copy, DuplicateGroup, Duplicates
from sslfeat.errors import InputError
from tests.conftest import contents, sslfeat
from tests.serving import running


def image(path: str) -> Copy:
    return Copy(path, "0" * 64, 10, 10, 1.0, "same image")


def groups(*names: str) -> Duplicates:
    """One group for each string, an image for each letter."""
    found = tuple(DuplicateGroup(image(name[0]), tuple(map(image, name[1:]))) for name in names)
    return Duplicates(found, 99, 0.3, "drawn")


def shape(found: Duplicates) -> set[tuple[str, str]]:
    return {(group.kept.path, "".join(copy.path for copy in group.copies)) for group in found.groups}


def test_what_is_kept_and_what_makes_way() -> None:
    found = groups("abc", "xy")
    assert shape(decide(found, [])) == set()
    assert shape(decide(found, [Decision("a", "b", "left"), Decision("a", "c", "both")])) == {("a", "b")}
    assert shape(decide(found, [Decision("a", "b", "right"), Decision("b", "c", "left")])) == {("b", "ac")}
    chain = [Decision("a", "b", "right"), Decision("b", "c", "right"), Decision("x", "y", "left")]
    assert shape(decide(found, chain)) == {("c", "ab"), ("x", "y")}
    for wrong in (("a", "x"), ("a", "a"), ("a", "none")):
        with pytest.raises(InputError, match="not a pair of images of one group"):
            decide(found, [Decision(*wrong, "left")])
    with pytest.raises(InputError, match="would be replaced by"):
        decide(found, [Decision("a", "b", "right"), Decision("b", "c", "right"), Decision("a", "c", "left")])


def test_however_pairs_are_decided_every_group_keeps_an_image() -> None:
    rng = random.Random(0)
    for _ in range(500):
        letters = "abcdef"
        pairs = [rng.sample(letters, 2) for _ in range(rng.randrange(8))]
        decisions = [Decision(left, right, rng.choice(["left", "right", "both"])) for left, right in pairs]
        try:
            decided = decide(groups(letters), decisions)
        except InputError:
            continue
        moved = [copy.path for group in decided.groups for copy in group.copies]
        assert len(set(moved)) == len(moved) < len(letters)
        assert not set(moved) & {group.kept.path for group in decided.groups}
        losers = {d.right if d.keep == "left" else d.left for d in decisions if d.keep != "both"}
        assert set(moved) == losers


def test_groups_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "groups.json"
    write_duplicates(file, groups("abc", "xy"))
    assert read_duplicates(file) == groups("abc", "xy")
    for text, said in ((b"{", "not JSON"), (b"{}", "is missing"), (b"[1]", "not an object")):
        file.write_bytes(text)
        with pytest.raises(InputError, match=said):
            read_duplicates(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_duplicates(tmp_path / "none.json")


def test_a_plan_of_the_service_is_carried_out(tmp_path: Path, image_folder: Path, tiny: Path) -> None:
    images = tmp_path / "images"
    for path in sorted(image_folder.rglob("*.jpg"))[::9]:
        for name in ("one", "two"):
            (images / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, images / name / path.name)
    assert sslfeat("embed", images, "--encoder", tiny, "--out", tmp_path / "features").returncode == 0
    assert sslfeat("index", tmp_path / "features", "--out", tmp_path / "index").returncode == 0
    (tmp_path / "groups.json").write_text(sslfeat("dedupe", tmp_path / "features", "--json").stdout)
    before = contents(images)
    options = ("--encoder", tiny, "--index", tmp_path / "index", "--duplicates", tmp_path / "groups.json")
    with running(*options) as service, service.client() as client:
        found = client.get("/v1/duplicates").json()
        pairs = [(group["kept"], copy) for group in found["groups"] for copy in group["copies"]]
        assert len(pairs) == 5
        assert client.get(f"/v1/images/{pairs[0][1]['id']}").status_code == 200
        (kept, copy), (left, right) = pairs[:2]
        decisions = [
            {"left": kept["path"], "right": copy["path"], "keep": "right"},
            {"left": left["path"], "right": right["path"], "keep": "both"},
        ]
        written = client.post("/v1/duplicates", json={"decisions": decisions}).json()
        assert written["moves"] == 1
        assert client.get("/v1/duplicates").json()["decisions"] == decisions
        wrong = [{"left": "/etc/passwd", "right": kept["path"], "keep": "left"}]
        assert client.post("/v1/duplicates", json={"decisions": wrong}).status_code == 422
        as_text = client.post("/v1/duplicates", content=json.dumps({"decisions": []}), headers={"content-type": "text/plain"})
        assert as_text.status_code == 415
    assert contents(images) == before
    done = sslfeat("dedupe", "--decided", written["plan"], "--apply", tmp_path / "aside", "--yes")
    assert done.returncode == 0, done.stderr
    assert set(before) - set(contents(images)) == {str(Path(kept["path"]).relative_to(images))}
    assert sslfeat("dedupe", "--undo", tmp_path / "aside").returncode == 0
    assert contents(images) == before
    assert sslfeat("dedupe", tmp_path / "features", "--decided", written["plan"]).returncode == 2
