"""Images in containers: their features are those of the files, and what is broken in one costs no more than it must."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sslfeat.data.containers import files as container_files
from sslfeat.data.containers.registry import open_container
from sslfeat.data.dataset import find_inputs
from sslfeat.data.read import exists, find_image, read_image
from sslfeat.errors import ImageError, InputError
from sslfeat.features.reader import FeaturesFolder
from sslfeat.features.update import update_folder
from sslfeat.features.verify import verify
from sslfeat.features.writer import Options, embed_to_folder
from sslfeat.inference.encoder import Encoder
from sslfeat.reports.thumbnails import thumbnails
from tests.conftest import contents
from tests.containers import files_of, save_to_disk, table_of, write_arrow, write_parquet, write_tar, write_zip

OPTIONS = Options(part_size=16)


@pytest.fixture(scope="module")
def encoder(tiny: Path) -> Encoder:
    return Encoder.load(tiny, "cpu", 1)


def embed(encoder: Encoder, spec: Path | str, out: Path) -> pa.Table:
    embed_to_folder(encoder, find_inputs([spec]), out, OPTIONS)
    return rows(out)


def rows(out: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(out.glob("part-*.parquet")))


def names(spec: Path | str) -> list[str]:
    return [record.name for record in find_inputs([spec])]


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


def test_members_are_called_by_both_names(tmp_path: Path) -> None:
    files = {"b/2.jpg": b"y", "./a/1.jpg": b"x", "a/.hidden.jpg": b"z", "__MACOSX/a/1.jpg": b"z", "note.txt": b"n"}
    assert names(write_tar(tmp_path / "s.tar", files)) == [f"{tmp_path}/s.tar/a/1.jpg", f"{tmp_path}/s.tar/b/2.jpg"]
    assert read_image(os.fsencode(tmp_path / "s.tar/a/1.jpg")) == b"x"
    assert find_image(f"{tmp_path}/s.tar/b/2.jpg") == os.fsencode(tmp_path / "s.tar/b/2.jpg")
    assert not exists(os.fsencode(tmp_path / "s.tar/b/3.jpg"))
    (tmp_path / "unpacked.tar" / "in").mkdir(parents=True)  # a folder may be called so, too
    (tmp_path / "unpacked.tar" / "in" / "3.jpg").write_bytes(b"q")
    assert read_image(os.fsencode(tmp_path / "unpacked.tar/in/3.jpg")) == b"q"


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_every_tar_is_read_as_tarfile_reads_it(kind: int, tmp_path: Path) -> None:
    deep = "d" * 60 + "/" + "e" * 60 + "/"  # fits ustar's two fields
    files = {f"{deep}{n}.jpg": os.urandom(n * 211) for n in range(1, 9)} | {"short.jpg": b"short"}
    if kind != tarfile.USTAR_FORMAT:
        files |= {"x" * 180 + ".jpg": b"long", "caf\u00e9/\u4e2d.jpg": b"letters"}
    path = write_tar(tmp_path / "s.tar", files, kind)
    with tarfile.open(path, "a", format=kind) as tar:
        tar.addfile(tarfile.TarInfo("1.jpg"), io.BytesIO())
        link = tarfile.TarInfo("again.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "short.jpg"
        tar.addfile(link)
        newer = tarfile.TarInfo(f"{deep}2.jpg")
        newer.size = 5
        tar.addfile(newer, io.BytesIO(b"newer"))
    found = open_container(os.fsencode(path))
    assert found.fault is None
    expected = files | {"again.jpg": b"short", f"{deep}2.jpg": b"newer"}
    assert {m.name.decode() for m in found.members()} == {*expected, "1.jpg"}
    for name, data in expected.items():
        assert found.read(name.encode()) == data


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


def test_a_damaged_header_costs_its_member_alone(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", {f"{n}.jpg": bytes([n]) * 3000 for n in range(5)}, tarfile.USTAR_FORMAT)
    data = bytearray(path.read_bytes())
    data[2 * 3584 : 2 * 3584 + 20] = b"\xff" * 20  # the third header
    path.write_bytes(data)
    found = names(path)
    assert found == [str(path), *(f"{path}/{n}.jpg" for n in (0, 1, 3, 4))]
    with pytest.raises(ImageError, match="3584 bytes from 7168 on are damaged"):
        read_image(os.fsencode(path))
    assert read_image(os.fsencode(f"{path}/4.jpg")) == b"\4" * 3000


def test_a_tar_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", {f"{n}.jpg": bytes([n]) * 3000 for n in range(5)}, tarfile.USTAR_FORMAT)
    path.write_bytes(path.read_bytes()[: 3 * 3584 + 900])
    assert names(path) == [str(path), *(f"{path}/{n}.jpg" for n in range(4))]
    with pytest.raises(ImageError, match="the tar is truncated before"):
        read_image(os.fsencode(f"{path}/3.jpg"))
    with pytest.raises(ImageError, match="it is truncated"):
        read_image(os.fsencode(path))


def test_sizes_that_lie_allocate_nothing(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", {"1.jpg": b"x" * 100}, tarfile.USTAR_FORMAT)
    data = bytearray(path.read_bytes())
    data[124:136] = b"\x80" + b"\xff" * 11  # 2 ** 88 bytes, as GNU writes large numbers
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"the tar is truncated|larger than"):
        read_image(os.fsencode(f"{path}/1.jpg"))


def test_what_a_zip_may_hide(tmp_path: Path) -> None:
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.jpg", bytes((256 << 20) + 1))
        archive.writestr("../../out.jpg", b"x")
        archive.writestr("secret.jpg", b"x" * 50)
        archive.writestr("broken.jpg", os.urandom(5000))
        archive.writestr("good.jpg", b"good")
    data = bytearray(path.read_bytes())
    place = data.rindex(b"secret.jpg") - 46
    data[place + 8] |= 1
    start = data.index(b"broken.jpg") + 1000
    data[start : start + 50] = bytes(50)
    path.write_bytes(data)
    reasons = {
        "bomb.jpg": "larger than 256 MiB",
        "../../out.jpg": "points outside",
        "secret.jpg": "encrypted",
        "broken.jpg": "damaged in the zip",
    }
    for name, reason in reasons.items():
        with pytest.raises(ImageError, match=reason):
            open_container(os.fsencode(path)).read(name.encode())
    assert read_image(os.fsencode(f"{path}/good.jpg")) == b"good"
    path.write_bytes(data[:-30])
    assert names(path) == [str(path)]
    with pytest.raises(ImageError, match="its directory cannot be read"):
        read_image(os.fsencode(path))


def test_parquet_is_read_around_its_damage(tmp_path: Path) -> None:
    files = {f"a/{n}.jpg": os.urandom(2000) for n in range(40)}
    path = write_parquet(tmp_path / "s.parquet", files, group=10)
    good = list(files.values())
    data = bytearray(path.read_bytes())
    start = data.index(good[25])
    data[start - 9000 : start - 5000] = bytes(4000)  # in the third group
    path.write_bytes(data)
    found = open_container(os.fsencode(path))
    assert len(list(found.members())) == 40
    outcomes: list[bool | None] = []
    for row in range(40):
        try:
            outcomes.append(found.read(b"%08d" % row) == good[row])
        except ImageError:
            outcomes.append(None)
    assert outcomes[:20] == [True] * 20 and outcomes[30:] == [True] * 10
    path.write_bytes(data[:-200])
    assert names(path) == [str(path)]


def test_rows_in_any_order_and_by_many_threads(tmp_path: Path) -> None:
    files = {f"a/{n}.jpg": struct.pack("<I", n) * (n % 50 + 1) for n in range(300)}
    kinds = [write_parquet(tmp_path / "s.parquet", files, 100), write_arrow(tmp_path / "s.arrow", table_of(files), 50)]
    kinds += [write_tar(tmp_path / "s.tar", files), write_zip(tmp_path / "s.zip", files)]
    order = np.random.default_rng(0).permutation(300).tolist()
    for path in kinds:
        members = [member.name for member in open_container(os.fsencode(path)).members()]
        values = list(files.values()) if path.suffix in (".parquet", ".arrow") else [files[name.decode()] for name in members]
        with ThreadPoolExecutor(4) as pool:
            read = list(pool.map(lambda n, p=path, m=members: read_image(os.fsencode(p) + b"/" + m[n]), order))
        assert read == [values[n] for n in order], path


def test_few_files_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container_files, "MOST_OPEN", 3)
    paths = [write_tar(tmp_path / f"{n}.tar", {"a.jpg": bytes([n + 1])}) for n in range(20)]
    before = len(list(Path("/proc/self/fd").iterdir())) if os.path.isdir("/proc/self/fd") else 0
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda path: read_image(os.fsencode(path) + b"/a.jpg"), paths * 3))
    assert read == [bytes([n + 1]) for n in range(20)] * 3
    if before:
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 4 + threading.active_count()


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
