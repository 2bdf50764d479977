"""Images in remote stores: the features of the files, from a store that comes and goes."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import localbucket
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from sslfeat.data.containers import remote
from sslfeat.data.dataset import find_inputs
from sslfeat.data.decode_worker import DEFAULT_LIMITS
from sslfeat.data.read import absolute, read_image
from sslfeat.data.subprocess_decoder import SubprocessDecoder
from sslfeat.data.transforms import EXACT
from sslfeat.errors import ImageError, InputError, InterruptedRun, RemoteError
from sslfeat.features.update import update_folder
from sslfeat.features.writer import Options, embed_to_folder
from sslfeat.inference.encoder import Encoder
from sslfeat.inference.pipeline import embed_batches
from sslfeat.storage import retry
from tests.conftest import sslfeat
from tests.containers import files_of, table_of, write_arrow, write_parquet, write_tar, write_zip

OPTIONS = Options(part_size=16)


@pytest.fixture(scope="module")
def encoder(tiny: Path) -> Encoder:
    return Encoder.load(tiny, "cpu", 1)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)
    remote.KNOWN.clear()


@pytest.fixture
def memory(image_folder: Path, tmp_path: Path) -> Iterator[str]:
    """The drawn images as objects, and in containers, in fsspec's store in memory."""
    fs = fsspec.filesystem("memory")
    files = files_of(image_folder)
    for name, data in files.items():
        fs.pipe_file(f"/bucket/images/{name}", data)
    for path in (
        write_tar(tmp_path / "s.tar", files), write_zip(tmp_path / "s.zip", files),
        write_parquet(tmp_path / "s.parquet", files), write_arrow(tmp_path / "s.arrow", table_of(files)),
    ):  # fmt: skip
        fs.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    fs.pipe_file(
        "/bucket/lists/list.csv", b"path,town\n../images/no.jpg,Rome\nmemory://bucket/images/circles/circles-0000.jpg,Bern\n"
    )
    yield "memory://bucket"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def rows(out: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(out.glob("part-*.parquet")))


@pytest.fixture(scope="module")
def plain(encoder: Encoder, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    out = tmp_path_factory.mktemp("plain") / "f"
    embed_to_folder(encoder, find_inputs([image_folder]), out, OPTIONS)
    return rows(out)


def same(found: pa.Table, plain: pa.Table) -> bool:
    return all(found[name].equals(plain[name]) for name in ("sha256", "embedding", "label", "width"))


@pytest.mark.parametrize("name", ["images", "images/*/*.jpg", "s.tar", "s.zip", "s.parquet", "s.arrow"])
def test_features_are_those_of_the_files(name: str, memory: str, encoder: Encoder, plain: pa.Table, tmp_path: Path) -> None:
    inputs = find_inputs([f"{memory}/{name}"], "auto" if "*" not in name else "folder")
    embed_to_folder(encoder, inputs, tmp_path / "f", OPTIONS)
    found = rows(tmp_path / "f")
    assert same(found, plain)
    assert all(path.startswith("memory://bucket/") for path in found["path"].to_pylist())


def test_a_remote_list(memory: str) -> None:
    found = find_inputs([f"{memory}/lists/list.csv"])
    assert [(record.name, record.metadata) for record in found] == [
        ("memory://bucket/images/circles/circles-0000.jpg", {"town": "Bern"}),
        ("memory://bucket/lists/../images/no.jpg", {"town": "Rome"}),
    ]


def test_what_is_not_there_is_said(memory: str) -> None:
    with pytest.raises(InputError, match="does not exist"):
        find_inputs([f"{memory}/nothing"])
    with pytest.raises(InputError, match="nosuch:// is not supported by fsspec"):
        find_inputs(["nosuch://bucket/x.jpg"])
    with pytest.raises(ImageError, match="it no longer exists"):
        read_image(b"memory://bucket/nothing.jpg")
    assert absolute("s3://bucket/a b") == "s3://bucket/a b"


def test_a_changed_object_alone_is_embedded_again(memory: str, encoder: Encoder, tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    spec = f"{memory}/images"
    embed_to_folder(encoder, find_inputs([spec]), tmp_path / "f", OPTIONS)
    embed_to_folder(encoder, find_inputs([spec]), tmp_path / "f", OPTIONS)
    data = fs.cat_file("/bucket/images/circles/circles-0003.jpg")
    fs.pipe_file("/bucket/images/circles/circles-0002.jpg", data + b"\0")
    summary, changes = update_folder(encoder, find_inputs([spec]), tmp_path / "f", OPTIONS)
    assert changes is not None and changes.modified == 1 and summary.resumed == 39


class Flaky:
    """A store that fails at the first attempts to read anything."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failures: int, error: type[BaseException] = ConnectionError) -> None:
        self.failures: dict[Any, int] = {}
        self.reading = threading.Event()
        cat, info = MemoryFileSystem.cat_file, MemoryFileSystem.info

        def fail(key: Any) -> None:
            self.reading.set()
            self.failures[key] = self.failures.get(key, 0) + 1
            if self.failures[key] <= failures:
                raise error("the store is away")

        def cat_file(fs: Any, path: str, *arguments: Any, **options: Any) -> Any:
            fail((path, repr(options)))
            return cat(fs, path, *arguments, **options)

        def get_info(fs: Any, path: str, **options: Any) -> Any:
            fail(path)
            return info(fs, path, **options)

        monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
        monkeypatch.setattr(MemoryFileSystem, "info", get_info)


@pytest.mark.parametrize("name", ["images", "s.tar", "s.parquet"])
def test_nothing_is_lost_when_the_store_comes_back(
    name: str, memory: str, encoder: Encoder, plain: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaky = Flaky(monkeypatch, 3)
    summary = embed_to_folder(encoder, find_inputs([f"{memory}/{name}"]), tmp_path / "f", OPTIONS)
    assert summary.failed == 0 and same(rows(tmp_path / "f"), plain)
    assert max(flaky.failures.values()) > 3


def test_a_store_that_stays_away_ends_the_run_and_no_image_counts_as_broken(
    memory: str, encoder: Encoder, plain: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = find_inputs([f"{memory}/images"])
    with monkeypatch.context() as patch:
        patch.setenv(retry.RETRY_VARIABLE, "0.05")
        Flaky(patch, 10**9)
        with pytest.raises(RemoteError, match=r"reading memory://bucket/images.*the store is away.*repeat the command"):
            embed_to_folder(encoder, inputs, tmp_path / "f", OPTIONS)
    summary = embed_to_folder(encoder, inputs, tmp_path / "f", OPTIONS)
    assert summary.failed == 0 and same(rows(tmp_path / "f"), plain)


def test_a_run_that_waits_for_a_store_can_be_ended(
    memory: str, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = find_inputs([f"{memory}/images"])
    flaky = Flaky(monkeypatch, 10**9)

    def pulse() -> None:
        if flaky.reading.is_set():
            raise InterruptedRun(2, "interrupted")

    def decoder() -> SubprocessDecoder:
        return SubprocessDecoder(encoder.card.preprocess, EXACT, DEFAULT_LIMITS)

    with pytest.raises(InterruptedRun):
        list(embed_batches(encoder, [[record.path for record in inputs]], 1, decoder, pulse))


def test_an_s3_server(tiny: Path, image_folder: Path, plain: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "buckets" / "pictures"
    shutil.copytree(image_folder, root / "images")
    write_tar(root / "s.tar", files_of(image_folder))
    handler = type("Handler", (localbucket.S3Handler,), {"data_root": root.parent})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = {"ENDPOINT_URL": f"http://127.0.0.1:{server.server_address[1]}", "DEFAULT_REGION": "us-east-1"}
    for name, value in {**settings, "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "y"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    try:
        specs = ("s3://pictures/images", "s3://pictures/s.tar")
        done = sslfeat("embed", *specs, "--encoder", tiny, "--out", tmp_path / "f", "--part-size", "40", "--json")
        gone = sslfeat("embed", "s3://pictures/nothing", "--encoder", tiny, "--out", tmp_path / "g")
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path / "f")
    assert same(found.slice(0, 40), plain) and same(found.slice(40), plain)
    assert gone.returncode == 1 and "s3://pictures/nothing does not exist" in gone.stderr
