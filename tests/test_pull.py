"""Pulling encoders: from servers that know ranges, that do not, that cut off, that lie, and from the cache alone."""

from __future__ import annotations

import hashlib
import json
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sslfeat.errors import EncoderFileError, InputError, RemoteError, UsageError
from sslfeat.inference import pulled
from sslfeat.inference.encoder import Encoder
from sslfeat.inference.onnx_model import read_encoder_file
from sslfeat.inference.pulled import listed, pull
from sslfeat.inference.registry import ZOO, find_encoder, names, resolve
from sslfeat.storage import cache, retry
from tests.conftest import sslfeat, write_tiny
from tests.test_json import checked

VERSION = '"v1"'


class Server:
    """A server of one file. ``ranges``: it knows them; ``cut``: bytes after which its next answers end; ``asked``: headers."""

    def __init__(self, data: bytes) -> None:
        self.data, self.version, self.ranges = data, VERSION, True
        self.cut: list[int] = []
        self.refuse: list[int] = []
        self.asked: list[dict[str, str]] = []
        handler = type("Handler", (_Handler,), {"server_of": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/models/tiny.onnx"

    @property
    def starts(self) -> list[str]:
        """The range of each request, if it had one."""
        return [headers.get("Range", "") for headers in self.asked]


class _Handler(BaseHTTPRequestHandler):
    server_of: Server

    def do_GET(self) -> None:
        server = self.server_of
        server.asked.append(dict(self.headers))
        if server.refuse:
            return self.send_error(server.refuse.pop(0))
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/moved"))
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if self.headers.get("If-None-Match") == server.version:
            self.send_response(304)
            return self.end_headers()
        start = 0
        if server.ranges and self.headers.get("If-Range", server.version) == server.version:
            start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.data) - 1}/{len(server.data)}")
        self.send_header("ETag", server.version)
        self.send_header("Content-Length", str(len(server.data) - start))
        self.end_headers()
        self.wfile.write(server.data[start : start + server.cut.pop(0)] if server.cut else server.data[start:])
        return None

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def server(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv(cache.FOLDER, str(tmp_path / "cache"))
    monkeypatch.setenv(retry.RETRY_VARIABLE, "1")
    serving = Server(tiny.read_bytes())
    yield serving
    serving.http.shutdown()
    serving.http.server_close()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_it_is_fetched_once_and_looked_after(server: Server, tiny: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = pull(server.url, step=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == tiny.read_bytes() and path.name == "tiny.onnx"
    assert seen[0] == (0, len(server.data)) and seen[-1] == (len(server.data), len(server.data))
    assert pull(server.url) == path
    assert [headers.get("If-None-Match") for headers in server.asked] == [None, VERSION]
    assert pull(server.url, sha256(server.data)) == path
    assert len(server.asked) == 2  # what has that sha256 cannot have changed


def test_another_version_takes_its_place(server: Server, tmp_path: Path) -> None:
    pull(server.url)
    server.data, server.version = write_tiny(tmp_path / "tiny.onnx", seed=1).read_bytes(), '"v2"'
    assert pull(server.url).read_bytes() == server.data


def test_what_was_cut_off_goes_on_where_it_was(server: Server) -> None:
    server.cut = [1000, 500]
    assert pull(server.url).read_bytes() == server.data
    assert server.starts == ["", "bytes=1000-", "bytes=1500-"]


def test_a_server_that_was_never_there_is_given_up_sooner_than_one_that_went_away(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(retry.RETRY_VARIABLE)
    monkeypatch.setattr(retry, "CONTACT_SECONDS", 0.2)
    server.cut = [1000]
    real = urllib.request.OpenerDirector.open
    away = [False] + [True] * 4 + [False]  # after the first piece it refuses for longer than CONTACT_SECONDS

    def open_or_refuse(self: Any, *given: Any, **options: Any) -> Any:
        if away and away.pop(0):
            raise ConnectionRefusedError(111, "refused")
        return real(self, *given, **options)

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", open_or_refuse)
    assert pull(server.url).read_bytes() == server.data
    assert away == []
    away[:] = [True] * 1000
    with pytest.raises(RemoteError, match=r"no success within 0\.2 s .*refused"):
        pull(server.url.replace("tiny", "other"))


def test_a_process_that_died_left_something_to_go_on_with(server: Server) -> None:
    server.cut, server.refuse = [1000], []

    def die(done: int, total: int | None) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(server.url, step=die)
    assert pull(server.url).read_bytes() == server.data
    assert server.starts == ["", "bytes=1000-"]


def test_of_a_file_that_changed_meanwhile_nothing_is_kept(server: Server, tmp_path: Path) -> None:
    server.cut = [1000]
    real = server.data

    def change(done: int, total: int | None) -> None:
        if done == 1000:
            server.data, server.version = write_tiny(tmp_path / "tiny.onnx", seed=1).read_bytes(), '"v2"'

    assert pull(server.url, step=change).read_bytes() == server.data != real


def test_without_ranges_it_begins_anew(server: Server) -> None:
    server.ranges, server.cut = False, [1000]
    assert pull(server.url).read_bytes() == server.data
    server.version, server.cut = '"v2"', [1000] * 100
    with pytest.raises(RemoteError, match=rf"the response ended after 1000 of {len(server.data)} bytes|1000 bytes read"):
        pull(server.url)


def test_other_bytes_are_refused_and_not_kept(server: Server) -> None:
    with pytest.raises(RemoteError, match=f"has sha256 {sha256(server.data)}, expected {'0' * 64}"):
        pull(server.url, "0" * 64)
    assert not list((cache.root() / cache.ENCODERS).rglob("*.onnx"))
    with pytest.raises(UsageError, match="not 64 hexadecimal digits"):
        pull(server.url, "abc")
    server.data, server.version = b"<html>sign in</html>", '"v2"'
    with pytest.raises(EncoderFileError, match=r"^http://127.*tiny.onnx: not an ONNX"):
        pull(server.url)
    assert not list((cache.root() / cache.ENCODERS).rglob("*.onnx"))


def test_what_the_server_refuses(server: Server) -> None:
    server.refuse = [404]
    with pytest.raises(RemoteError, match="the server answers 404"):
        pull(server.url)
    assert len(server.asked) == 1
    server.refuse = [503, 429]
    assert pull(server.url).read_bytes() == server.data
    server.http.server_close()
    server.http.shutdown()
    with pytest.raises(RemoteError, match=r"no success within 1 s.*refused"):
        pull(server.url)


def test_too_large_is_refused_before_it_is_fetched(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulled, "MAX_BYTES", 1000)
    with pytest.raises(RemoteError, match="larger than 1000 bytes"):
        pull(server.url)


def test_offline(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.OFFLINE, "1")
    with pytest.raises(RemoteError, match="is not in the cache, and SSLFEAT_OFFLINE is set"):
        pull(server.url)
    monkeypatch.delenv(cache.OFFLINE)
    path = pull(server.url)
    monkeypatch.setenv(cache.OFFLINE, "1")
    assert pull(server.url) == path and len(server.asked) == 1
    with pytest.raises(RemoteError, match="not in the cache with that sha256"):
        pull(server.url, "0" * 64)
    path.write_bytes(b"altered")  # then it is not what was pulled
    with pytest.raises(RemoteError, match="is not in the cache"):
        pull(server.url)


def test_a_hub_is_reached_by_its_addresses(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url.removesuffix("/models/tiny.onnx") + "/moved")
    monkeypatch.setenv("HF_TOKEN", "secret")
    asked: list[str] = []
    real = _Handler.do_GET

    def note(handler: Any) -> None:
        asked.append(handler.path)
        real(handler)

    monkeypatch.setattr(_Handler, "do_GET", note)
    pull("hf://owner/repo@v2/onnx/model.onnx")
    assert asked == ["/moved/owner/repo/resolve/v2/onnx/model.onnx", "/owner/repo/resolve/v2/onnx/model.onnx"]
    assert [headers.get("Authorization") for headers in server.asked] == ["Bearer secret", None]
    with pytest.raises(UsageError, match=r"hf://OWNER/REPO/FILE\.onnx"):
        pull("hf://model.onnx")


def test_names_come_from_tables(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "encoders.json"
    line = {
        "name": "ours",
        "url": server.url,
        "sha256": sha256(server.data),
        "license": "MIT",
        "dim": 8,
        "quality": {"kNN": 50.0},
    }
    table.write_text(json.dumps({"format": 1, "encoders": [line]}))
    monkeypatch.setenv(pulled.TABLE_VARIABLE, str(table))
    assert resolve("ours").read_bytes() == server.data
    with pytest.raises(InputError, match=r"sha256 .* was given, but the table has "):
        pull("ours", "0" * 64)
    with pytest.raises(InputError, match=r"'theirs' is neither a URL nor in the table of encoders \(ours, sslfeat-small"):
        pull("theirs")
    table.write_text(json.dumps({"format": 1, "encoders": [{**line, "sha256": "short"}]}))
    with pytest.raises(InputError, match=r"encoders.json: encoders\[0\]: sha256 is 'short'"):
        listed()


def test_the_table_says_of_the_box_what_is_in_it() -> None:
    table = listed()
    assert set(table) == set(names())
    for name, line in table.items():
        file = read_encoder_file(ZOO / f"{name}.onnx")
        assert pull(name) == ZOO / f"{name}.onnx"
        assert line.sha256 == file.sha256 and line.dim == file.card.dim and line.license == file.card.license
        assert line.quality == file.card.training.quality


def test_a_pulled_encoder_is_used_by_url_and_found_by_fingerprint(server: Server) -> None:
    encoder = Encoder.load(server.url)
    found = find_encoder("tiny", encoder.fingerprint, [], False, EncoderFileError)
    assert found.fingerprint == encoder.fingerprint
    record = pull(server.url).with_name(pulled.SOURCE)
    record.write_bytes(b"{")  # then nothing is on record
    with pytest.raises(EncoderFileError, match="neither shipped nor in the cache"):
        find_encoder("tiny", encoder.fingerprint, [], False, EncoderFileError)
    assert pull(server.url).read_bytes() == server.data


def test_the_command(server: Server) -> None:
    done = sslfeat("pull", server.url, "--sha256", sha256(server.data), "--json")
    assert done.returncode == 0, done.stderr
    said = checked(done.stdout, "pull")
    assert (said["encoder"]["name"], said["dim"], said["sha256"]) == ("tiny", 8, sha256(server.data))
    done = sslfeat("pull", f"{server.url}?other", "--offline")
    assert (
        done.returncode == 1
        and "is not in the cache, and SSLFEAT_OFFLINE is set: unset it and run 'sslfeat pull' once" in done.stderr
    )
