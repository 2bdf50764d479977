"""Files of each container format: names, damaged and truncated data, false sizes, and reads by many threads."""

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
import pytest

from sslfeat.data.containers import files as container_files
from sslfeat.data.containers.registry import open_container
from sslfeat.data.read import exists, find_image, read_image
from sslfeat.errors import ImageError
from tests.containers import names, table_of, write_arrow, write_parquet, write_tar, write_zip


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
