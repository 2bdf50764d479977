"""Images in containers: the same features as from files, labels and descriptions, updates, and reported failures."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sslfeat.data.dataset import find_inputs
from sslfeat.errors import InputError
from sslfeat.features.reader import FeaturesFolder
from sslfeat.features.update import update_folder
from sslfeat.features.verify import verify
from sslfeat.features.writer import Options, embed_to_folder
from sslfeat.inference.encoder import Encoder
from sslfeat.reports.thumbnails import thumbnails
from tests.conftest import contents
from tests.containers import files_of, names, save_to_disk, table_of, write_arrow, write_parquet, write_tar, write_zip

OPTIONS = Options(part_size=16)


@pytest.fixture(scope="module")
def encoder(tiny: Path) -> Encoder:
    return Encoder.load(tiny, "cpu", 1)


def embed(encoder: Encoder, spec: Path | str, out: Path) -> pa.Table:
    embed_to_folder(encoder, find_inputs([spec]), out, OPTIONS)
    return rows(out)


def rows(out: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(out.glob("part-*.parquet")))


@pytest.fixture(scope="module")
def plain(encoder: Encoder, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    return embed(encoder, image_folder, tmp_path_factory.mktemp("plain") / "f")


@pytest.mark.parametrize("kind", ["tar", "zip", "parquet", "arrow", "dataset", "datasets", "shards"])
def test_features_are_those_of_the_files_bit_for_bit(
    kind: str, encoder: Encoder, image_folder: Path, plain: pa.Table, tmp_path: Path
) -> None:
    files = files_of(image_folder)
    spec = tmp_path / f"images.{kind}"
    if kind == "tar":
        write_tar(spec, files)
    elif kind == "zip":
        write_zip(spec, files)
    elif kind == "parquet":
        write_parquet(spec, files)
    elif kind == "arrow":
        write_arrow(spec, table_of(files))
    elif kind == "dataset":
        save_to_disk(spec, files)
    elif kind == "datasets":
        save_to_disk(spec / "train", files)
        (spec / "dataset_dict.json").write_text('{"splits": ["train"]}')
    else:
        spec.mkdir()
        items = list(files.items())
        write_tar(spec / "a.tar", dict(items[:13]))
        write_tar(spec / "b.tar", dict(items[13:]))
    found = embed(encoder, spec, tmp_path / "f")
    for column in ("sha256", "embedding", "width", "height", "label"):
        assert found[column].equals(plain[column]), column
    assert found.schema == plain.schema
    assert list(verify(tmp_path / "f", sources=True)) == []
    shown = thumbnails(found["path"].to_pylist()[:3], 64)
    assert all(shown), "pages show the images in a container"


def test_webdataset_s_labels_and_descriptions(tmp_path: Path) -> None:
    files = {
        "shard/0001.jpg": b"1", "shard/0001.cls": b"7\n",
        "shard/0001.json": b'{"year": 2020, "ok": true, "box": [1, 2], "path": "x"}',
        "shard/0002.left.jpg": b"2", "shard/0002.right.jpg": b"3", "shard/0002.json": b'{"label": "dog", "caption": "a dog"}',
        "shard/0003.jpg": b"4", "shard/0003.json": b"not json", "shard/0003.txt": b"words",
    }  # fmt: skip
    found = {r.name.split("/")[-1]: (r.label, r.metadata) for r in find_inputs([write_tar(tmp_path / "s.tar", files)])}
    assert found["0001.jpg"] == ("7", {"year": "2020", "ok": "true", "path_": "x"})
    assert found["0002.left.jpg"] == found["0002.right.jpg"] == ("dog", {"caption": "a dog"})
    assert found["0003.jpg"] == (None, {"txt": "words"})
    assert all(record.label is None for record in find_inputs([tmp_path / "s.tar"], "none"))


def test_a_container_that_changes_is_read_anew(encoder: Encoder, image_folder: Path, tmp_path: Path) -> None:
    files = files_of(image_folder)
    spec = write_tar(tmp_path / "s.tar", files)
    embed(encoder, spec, tmp_path / "f")
    name, other = list(files)[5], list(files)[9]
    write_tar(spec, {**files, name: files[other] + b"\0"})
    with pytest.raises(Exception, match=r"1 modified, such as .*s.tar/" + name):
        embed(encoder, spec, tmp_path / "f")
    summary, changes = update_folder(encoder, find_inputs([spec]), tmp_path / "f", OPTIONS)
    assert changes is not None and changes.modified == 1 and summary.resumed == len(files) - 1
    fresh = embed(encoder, spec, tmp_path / "g")
    assert fresh.equals(rows(tmp_path / "f"))


def test_a_broken_member_is_reported_by_both_names_and_the_run_goes_on(
    encoder: Encoder, image_folder: Path, tmp_path: Path
) -> None:
    files = files_of(image_folder)
    spec = write_tar(tmp_path / "s.tar", {**files, "circles/broken.jpg": b"no image"})
    data = spec.read_bytes()
    spec.write_bytes(data[: -(-len(data.rstrip(b"\0")) // 512) * 512])
    summary = embed_to_folder(encoder, find_inputs([spec]), tmp_path / "f", OPTIONS)
    assert summary.embedded == len(files)
    lines = summary.failures.read_text()
    assert f"{spec}/circles/broken.jpg,not an image" in lines
    assert f'{spec},"it is truncated: the end marker is missing' in lines
    whole = contents(tmp_path / "f")
    embed_to_folder(encoder, find_inputs([spec]), tmp_path / "f", OPTIONS)
    assert contents(tmp_path / "f") == whole


def test_folders_of_images_are_what_they_were(image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in").symlink_to(image_folder)
    before = names(tmp_path)
    write_zip(tmp_path / "copy.zip", files_of(image_folder))
    said: list[str] = []
    assert [record.name for record in find_inputs([tmp_path], note=said.append)] == before
    assert any("copy.zip" in text for text in said)


def test_what_cannot_be_read_by_place_is_refused_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "s.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(InputError, match=r"is compressed, so single.*gunzip"):
        find_inputs([tmp_path / "s.tar.gz"])
    pq.write_table(pa.table({"a": [1]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="no column of paths"):
        find_inputs([tmp_path / "t.parquet"])


def test_a_hugging_face_label_is_its_name_and_other_columns_are_kept(tmp_path: Path) -> None:
    files = {f"{kind}/{n}.jpg": b"x" for kind in ("cat", "dog") for n in range(2)}
    table = table_of(files).append_column("year", pa.array([1, 2, None, 4])).append_column("box", pa.array([[1]] * 4))
    found = find_inputs([write_arrow(tmp_path / "s.arrow", table)])
    assert [record.label for record in found] == ["cat", "cat", "dog", "dog"]
    assert found[0].metadata == {"year": "1", "file": "0.jpg"}
    assert found[2].metadata == {"file": "0.jpg"}


def test_descriptions_come_out_of_the_features_folder(encoder: Encoder, image_folder: Path, tmp_path: Path) -> None:
    files = files_of(image_folder)
    broken = {**files, "circles/circles-0001.jpg": b"no image"}
    embed(encoder, write_parquet(tmp_path / "s.parquet", broken), tmp_path / "f")
    found = pa.concat_tables(part.columns for part in FeaturesFolder(tmp_path / "f").parts())
    expected = [name.split("/")[-1] for name in files if name != "circles/circles-0001.jpg"]
    assert found["file"].to_pylist() == expected
