"""The embedding job: rows, failures, repeated runs, and folders that it refuses or keeps."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sslfeat.data.dataset import find_inputs
from sslfeat.errors import FeaturesError
from sslfeat.features.failures import failures_bytes
from sslfeat.features.reader import Features
from sslfeat.features.update import repair_folder, update_folder
from sslfeat.features.verify import verify
from sslfeat.features.writer import Options, embed_to_folder
from sslfeat.inference.encoder import Encoder
from sslfeat.storage import atomic
from tests.conftest import contents, sslfeat, tiny_card, write_tiny
from tests.embed_job import run


def test_rows_are_what_the_encoder_gives(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    summary = run(tiny, image_folder, tmp_path / "f")
    assert (summary.embedded, summary.failed, summary.resumed) == (40, 0, 0)
    features = Features.load(tmp_path / "f")
    paths = sorted(str(path) for path in image_folder.rglob("*.jpg"))
    assert features.paths == paths
    assert features.labels == [Path(path).parent.name for path in paths]
    direct = np.stack(list(Encoder.load(tiny, "cpu").embed(paths)))
    np.testing.assert_allclose(features.embeddings, direct, atol=1e-6)
    assert features.embeddings.dtype == np.float32
    assert list(verify(tmp_path / "f", sources=True)) == []


def test_pandas_reads_a_part_as_it_stands(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    run(tiny, image_folder, tmp_path / "f")
    frame = pd.read_parquet(tmp_path / "f" / "part-00001.parquet")
    assert list(frame.columns) == ["path", "sha256", "width", "height", "label", "embedding"]
    with Image.open(frame["path"][0]) as image:
        assert (frame["width"][0], frame["height"][0]) == image.size
    assert len(frame) == 7
    assert frame["embedding"][0].shape == (tiny_card().dim,)
    assert str(pq.read_schema(tmp_path / "f" / "part-00001.parquet").field("embedding").type).startswith("fixed_size_list")


def test_bad_images_are_listed_and_the_rest_is_done(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "images with space"
    shutil.copytree(image_folder, images)
    (images / "circles" / "empty.jpg").touch()
    (images / "circles" / "text.png").write_text("not an image")
    whole = (images / "circles" / "circles-0000.jpg").read_bytes()
    (images / "squares" / "half.jpg").write_bytes(whole[: len(whole) // 2])
    strange = os.fsencode(images / "squares") + b"/new\nline \xff.jpg"
    Path(os.fsdecode(strange)).write_bytes(whole)
    finished = sslfeat("embed", images, "--encoder", tiny, "--out", tmp_path / "f", "--json")
    assert finished.returncode == 3, finished.stderr
    assert json.loads(finished.stdout)["failed"] == 3
    with (tmp_path / "f" / "__sslfeat__/failures.csv").open(newline="") as file:
        failures = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}
    assert set(failures) == {"empty.jpg", "text.png", "half.jpg"}
    assert "empty" in failures["empty.jpg"]
    assert "truncated" in failures["half.jpg"]
    assert str(images / "squares") + "/new\nline \\xff.jpg" in Features.load(tmp_path / "f").paths
    assert sslfeat("verify", tmp_path / "f").returncode == 0
    assert sslfeat("embed", images, "--encoder", tiny, "--out", tmp_path / "f", "--strict").returncode == 1


def test_a_finished_folder_is_left_alone(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    run(tiny, image_folder, tmp_path / "f")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "f").glob("part-*")}
    assert run(tiny, image_folder, tmp_path / "f").resumed == 40
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "f").glob("part-*")}


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "record", "orphan"])
def test_a_damaged_part_is_made_again(tiny: Path, image_folder: Path, tmp_path: Path, damage: str) -> None:
    run(tiny, image_folder, tmp_path / "f")
    good = contents(tmp_path / "f")
    part, record = tmp_path / "f" / "part-00002.parquet", tmp_path / "f" / "__sslfeat__/part-00002.json"
    if damage == "flip":
        data = bytearray(part.read_bytes())
        data[100] ^= 1
        part.write_bytes(data)
    elif damage == "cut":
        part.write_bytes(part.read_bytes()[:-10])
    elif damage == "missing":
        part.unlink()
    elif damage == "record":
        record.write_bytes(b"{")
    else:
        record.unlink()
    assert any("part-00002" in fault for fault in verify(tmp_path / "f"))
    with pytest.raises(FeaturesError, match="part-00002"):
        Features.load(tmp_path / "f")
    assert run(tiny, image_folder, tmp_path / "f").resumed == 33
    assert contents(tmp_path / "f") == good


def test_verify_names_a_changed_source(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(image_folder, images)
    odd_name = os.fsencode(images) + (b"/caf\xe9 \\x41.jpg" if sys.platform == "linux" else b"/plain.jpg")
    shutil.copy(images / "stripes" / "stripes-0001.jpg", os.fsdecode(odd_name))
    run(tiny, images, tmp_path / "f")
    changed = images / "stripes" / "stripes-0001.jpg"
    changed.write_bytes(changed.read_bytes() + b"x")
    (images / "stripes" / "stripes-0002.jpg").unlink()
    assert list(verify(tmp_path / "f")) == []
    faults = list(verify(tmp_path / "f", sources=True))
    assert len(faults) == 2
    assert "stripes-0001" in faults[0]


def test_another_run_is_refused_by_the_field_that_differs(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    run(tiny, image_folder, tmp_path / "f")
    other = write_tiny(tmp_path / "other.onnx", seed=1)
    with pytest.raises(FeaturesError, match=r"encoder 'tiny' .*not 'other'"):
        run(other, image_folder, tmp_path / "f")
    with pytest.raises(FeaturesError, match=r"30 removed, 10 relabeled, such as .* --update"):
        run(tiny, image_folder / "circles", tmp_path / "f")
    with pytest.raises(FeaturesError, match="part_size"):
        run(tiny, image_folder, tmp_path / "f", part_size=8)
    assert run(other, image_folder, tmp_path / "f", overwrite=True).embedded == 40
    assert list(verify(tmp_path / "f")) == []


def test_a_folder_with_other_files_is_not_touched(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "thesis.tex").write_text("years")
    with pytest.raises(FeaturesError, match=r"thesis\.tex"):
        run(tiny, image_folder, tmp_path / "f", overwrite=True)


def test_no_machine_dependent_text_in_reasons(tiny: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    rng = random.Random(0)
    for index in range(20):
        (images / f"{index}.jpg").write_bytes(rng.randbytes(200))
    for out in ("a", "b"):
        run(tiny, images, tmp_path / out)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_names_with_any_character_are_read_back_from_failures_csv() -> None:
    rows = [("a\rb.jpg", "x"), ("a\nb\r\n", "y"), ('q"uo,te', "z"), (" \t=1+1", "é"), ("\u202e\x1b[31m", "\u2028\x85")]
    text = failures_bytes([*rows, ("nul\0", "\0")]).decode()
    found = [tuple(row) for row in csv.reader(io.StringIO(text, newline=""))]
    assert found == [("path", "reason"), *rows, ("nul\\x00", "\\x00")]
    frame = pd.read_csv(io.StringIO(text, newline=""))
    assert frame.to_numpy().tolist() == [list(row) for row in found[1:]]


STRANGERS: dict[str, dict[str, bytes]] = {
    "another program's run.json": {
        "__sslfeat__/features.json": b'{"name": "my run"}',
        "part-00000.parquet": b"mine",
        "__sslfeat__/part-00000.json": b"{}",
    },
    "parts of another program": {"part-00000.parquet": b"mine", "__sslfeat__/failures.csv": b"a,b"},
    "temporary files": {".notes.tmp": b"mine", "deep/.x.tmp": b"mine", "thesis.tex": b"mine"},
    "an encoder": {"__sslfeat__/encoder-int8.onnx": b"mine"},
    "encoders": {"encoder-mine.onnx": b"mine"},
    "a list of another kind": {"__sslfeat__/inputs.arrow": b"mine"},
    "an update of another program": {".update/complete": b"", ".update/data": b"mine", "x": b"mine"},
    "arrays": {"img_emb/notes.npy": b"mine", "metadata/readme": b"mine"},
    "images": {"a.jpg": b"mine"},
}


@pytest.mark.parametrize("name", STRANGERS)
def test_what_is_no_features_folder_is_left_as_it_is(name: str, tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    out, inputs = tmp_path / "f", find_inputs([image_folder])
    for path, data in STRANGERS[name].items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes(data)
    encoder = Encoder.load(tiny, "cpu", 1)
    attempts: dict[str, Callable[[], object]] = {
        "embed": lambda: embed_to_folder(encoder, inputs, out, Options(3, 7)),
        "overwrite": lambda: embed_to_folder(encoder, inputs, out, Options(3, 7), overwrite=True),
        "update": lambda: update_folder(encoder, inputs, out, Options(3, 7)),
        "repair": lambda: repair_folder(encoder, out),
    }
    for attempt in attempts.values():
        with pytest.raises(FeaturesError, match=r"contains other files|not a features folder|features\.json"):
            attempt()
        left = {path: data for path, data in contents(out).items() if path != atomic.LOCK_NAME}
        assert left == STRANGERS[name]


def test_files_of_others_in_a_features_folder_survive_overwrite_and_update(
    tiny: Path, image_folder: Path, tmp_path: Path
) -> None:
    images, out = tmp_path / "images", tmp_path / "f"
    shutil.copytree(image_folder, images)
    encoder = Encoder.load(tiny, "cpu", 1)
    beside = ("notes.txt", "part-list.json", "part-00000.parquet.bak", "part-1.parquet", "encoder-mine.onnx", ".x.tmp")
    below = ("img_emb/mine.npy", "img_emb/img_emb_x.npy", "metadata/readme", "sub/part-00000.parquet")
    others = dict.fromkeys((*beside, *below), b"mine")
    embed_to_folder(encoder, find_inputs([images]), out, Options(3, 7, layout="npy"))
    for name, data in others.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(data)
    next(images.rglob("*.jpg")).unlink()
    update_folder(encoder, find_inputs([images]), out, Options(3, 7, layout="npy"))
    embed_to_folder(encoder, find_inputs([images]), out, Options(3, 7), overwrite=True)
    found = contents(out)
    assert {name: found.get(name) for name in others} == others
    assert list(verify(out)) == []
    assert not list((out / "img_emb").glob("img_emb_0*"))
    assert len(Features.load(out).paths) == 39


def test_an_update_through_a_link_is_refused(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    images, out, elsewhere = tmp_path / "images", tmp_path / "f", tmp_path / "elsewhere"
    shutil.copytree(image_folder, images)
    run(tiny, images, out)
    (elsewhere / "__sslfeat__").mkdir(parents=True)
    (elsewhere / "complete").touch()
    (elsewhere / "thesis.tex").write_text("years")
    shutil.copy(out / "__sslfeat__/features.json", elsewhere / "__sslfeat__/features.json")
    (out / ".update").symlink_to(elsewhere)
    for path in sorted(images.rglob("*.jpg"))[:2]:
        path.unlink()
    for anew in (False, True):
        with pytest.raises(FeaturesError, match=r"\.update is a link"):
            if not anew:
                update_folder(Encoder.load(tiny, "cpu", 1), find_inputs([images]), out, Options(3, 7))
            else:
                run(tiny, images, out, overwrite=True)
    assert set(contents(elsewhere)) == {"complete", "thesis.tex", "__sslfeat__/features.json"}


def test_the_features_may_be_inside_the_folder_of_the_images(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(image_folder, images)
    for _ in range(2):
        assert run(tiny, images, images / "features").embedded == 40
    assert update_folder(Encoder.load(tiny, "cpu"), find_inputs([images]), images / "features", Options(3, 7))[0].resumed == 40
    with pytest.raises(FeaturesError, match="contains other files"):
        run(tiny, images, images / "circles")
