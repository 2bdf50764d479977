"""What a service refuses, drops and outlives: limits, slow and hostile clients, and its own end."""

from __future__ import annotations

import asyncio
import gzip
import io
import random
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from sslfeat.data.decode import Decoded, Pixels, Source
from sslfeat.data.results import Batch, Failed
from sslfeat.inference.model_card import Card
from sslfeat.numerics.arrays import FloatArray
from sslfeat.serving.answers import Refusal
from sslfeat.serving.batching import Batcher, BatchEvents
from tests.conftest import TINY_SIZE, tiny_card
from tests.serving import Running, ask, make_index, read_all, running

KEY = "a key of some length"
SMALL = ("--max-bytes", "100000", "--max-images", "3", "--first-byte", "1", "--headers", "1", "--body", "1")
HOST = b"Host: localhost\r\n"
JPEG = {"content-type": "image/jpeg"}
BLANK = np.zeros((TINY_SIZE, TINY_SIZE, 3), np.uint8)


class Summing:
    """Stands in for an encoder and a decoder: an image's embedding is its sum, odd first pixels are broken images."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.card: Card = tiny_card()
        self.sizes: list[int] = []
        self._seconds = seconds

    def run(self, pixels: Pixels) -> FloatArray:
        time.sleep(self._seconds)
        sums: FloatArray = pixels.reshape(len(pixels), -1).sum(1, dtype=np.float32)[:, None]
        return sums

    def decode(self, sources: Sequence[Source], pixels: Pixels) -> list[Decoded | Failed]:
        return [Failed("broken") for _ in sources]

    def abort(self) -> None: ...

    def close(self) -> None: ...


def image(number: int) -> Source:
    """A drawn array, or (3 of 10) bytes that are no image."""
    if number % 10 < 3:
        return f"file {number}"
    return np.random.default_rng(number).integers(0, 256, BLANK.shape, np.uint8)


def naive(source: Source) -> float | str:
    """One image by itself."""
    return "broken" if isinstance(source, str) else float(np.asarray(source).sum(dtype=np.float32))


def test_batches_give_what_one_by_one_gives() -> None:
    fake, sizes = Summing(0.001), list[int]()
    events = BatchEvents(ran=lambda batch: sizes.append(len(batch.outcomes)))
    batcher = Batcher(fake, lambda: fake, 3, 4, 0.0, 10_000, events)
    rng = random.Random(0)
    requests = [[image(rng.randrange(10_000)) for _ in range(rng.randrange(1, 12))] for _ in range(150)]

    async def one(request: list[Source]) -> list[float | str]:
        await asyncio.sleep(rng.random() / 10)
        return [item.reason if isinstance(item, Failed) else float(item[0]) for item in await batcher.embed(request, 60)]

    async def all_of_them() -> list[list[float | str]]:
        await batcher.start()
        return await asyncio.gather(*map(one, requests))

    found = asyncio.run(all_of_them())
    batcher.close()
    assert found == [[naive(source) for source in request] for request in requests]
    assert max(sizes) <= 4
    assert sum(sizes) == sum(map(len, requests))
    assert batcher.held == 0


def test_a_batch_waits_to_be_full_but_not_for_ever() -> None:
    seen: list[Batch] = []
    fake = Summing()
    batcher = Batcher(fake, lambda: fake, 1, 3, 0.05, 100, BatchEvents(ran=seen.append))

    async def three() -> None:
        await batcher.start()
        await asyncio.gather(*(batcher.embed([BLANK], 60) for _ in range(3)))
        await batcher.embed([BLANK], 60)

    asyncio.run(three())
    batcher.close()
    assert [len(batch.outcomes) for batch in seen] == [3, 1]


def test_what_nobody_waits_for_costs_nothing_and_too_much_is_refused() -> None:
    seen: list[Batch] = []
    dropped: list[int] = []
    fake = Summing(0.3)
    batcher = Batcher(fake, lambda: fake, 1, 4, 0.0, 8, BatchEvents(ran=seen.append, dropped=dropped.append))

    async def crowd() -> None:
        await batcher.start()
        first = asyncio.create_task(batcher.embed([BLANK] * 4, 60))
        await asyncio.sleep(0.1)
        late = asyncio.create_task(batcher.embed([BLANK] * 2, 0.05))
        left = asyncio.create_task(batcher.embed([BLANK] * 2, 60))
        await asyncio.sleep(0)
        with pytest.raises(Refusal, match="the queue is full") as full:
            await batcher.embed([BLANK], 60)
        assert (full.value.status, full.value.headers) == (429, {"retry-after": "1"})
        left.cancel()
        with pytest.raises(Refusal, match=r"deadline of .* exceeded") as error:
            await late
        assert error.value.status == 503
        assert len(await first) == 4
        assert len(await batcher.embed([BLANK], 60)) == 1

    asyncio.run(crowd())
    batcher.close()
    assert [len(batch.outcomes) for batch in seen] == [4, 1]
    assert sum(dropped) == 4


@pytest.fixture(scope="module")
def small(tiny: Path, embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    index = make_index(embedded, tmp_path_factory.mktemp("small") / "index")
    with running("--encoder", tiny, "--index", index, *SMALL) as service:
        yield service


@pytest.fixture
def client(small: Running) -> Iterator[httpx.Client]:
    with small.client() as found:
        yield found


@pytest.fixture(scope="module")
def jpeg(image_folder: Path) -> bytes:
    return next(image_folder.rglob("*.jpg")).read_bytes()


def test_sizes_are_limited(client: httpx.Client, jpeg: bytes) -> None:
    big = b"x" * 100_001
    for content in (big, iter([big[:60_000], big[:60_000]])):  # with a length, and in chunks
        answer = client.post("/v1/embed", content=content, headers=JPEG)
        assert (answer.status_code, answer.json()["cure"]) == (413, "send fewer or smaller images")
    files = [("images", (str(number), jpeg)) for number in range(4)]
    assert client.post("/v1/embed", files=files).status_code == 413
    assert client.post("/v1/embed", json={"images": ["aaaa"] * 4}).status_code == 413
    assert client.post("/v1/embed", files=files[:3]).status_code == 200
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    bomb = client.post("/v1/embed", content=buffer.getvalue(), headers=JPEG)
    assert bomb.status_code == 422
    assert "exceeds the limit" in bomb.json()["error"]


def test_bodies_of_other_kinds_are_refused(client: httpx.Client, jpeg: bytes) -> None:
    for headers in ({"content-type": "text/plain"}, {**JPEG, "content-encoding": "gzip"}, {}):
        assert client.post("/v1/embed", content=gzip.compress(jpeg), headers=headers).status_code == 415
    polyglot = b"GIF89a/*" + b"<script>alert(1)</script>" * 9
    for content, kind in (
        (b"", "image/jpeg"), (polyglot, "image/gif"), (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
        (b'{"images": []}', "application/json"), (b'{"image": "%%%"}', "application/json"),
        (b'{"url": "http://localhost/"}', "application/json"), (b"[" * 100_000, "application/json"),
        (b"--x\r\n", "multipart/form-data; boundary=x"), (b"none", "multipart/form-data"),
        (b'--x\r\nContent-Disposition: form-data; name="other"\r\n\r\n1\r\n--x--', "multipart/form-data; boundary=x"),
    ):  # fmt: skip
        answer = client.post("/v1/embed", content=content, headers={"content-type": kind})
        assert answer.status_code == 422, (content[:40], answer.text)
        assert answer.json()["error"]


def test_wrong_searches_are_named(client: httpx.Client) -> None:
    for body, status in (
        ({}, 422), ({"id": 1, "path": "a"}, 422), ({"id": 40}, 404), ({"id": -1}, 404), ({"path": "/etc/passwd"}, 404),
        ({"vector": [1.0]}, 422), ({"vector": [1e300] * 8}, 422), ({"id": 1, "top": 0}, 422), ({"id": 1, "x": 1}, 422),
        ({"id": 1, "top": 1001}, 422), ({"id": 1, "where": ["size=3"]}, 422), ({"id": 1, "where": ["a"] * 17}, 422),
        ({"id": 1.5}, 422), ({"id": 1, "min_score": "x"}, 422), ({"id": 10**30}, 404), ({"path": "\0"}, 404),
    ):  # fmt: skip
        answer = client.post("/v1/search", json=body)
        assert answer.status_code == status, (body, answer.text)
    nan = client.post("/v1/search", content=b'{"vector": [NaN]}', headers={"content-type": "application/json"})
    assert nan.status_code == 422
    for query in ("top=x", "top=-1", "min_score=nan", "other=1", "where=a"):
        assert client.post(f"/v1/search?{query}", json={"id": 1}).status_code == 422
    assert client.post("/v1/search?other=1").json()["cure"] == "the parameters are min_score, revision, top, where"
    assert client.post("/v1/predict", content=b"x", headers=JPEG).status_code == 404
    assert client.get("/v1/embed").status_code == 405


@pytest.mark.parametrize(
    "start",
    [b"", b"POST /v1/em", b"\r\n\r\n", b"POST /v1/embed HTTP/1.1\r\n" + HOST + b"X-Slow: ",
     b"POST /v1/embed HTTP/1.1\r\n" + HOST + b"Content-Type: image/jpeg\r\nContent-Length: 1000\r\n\r\nabc",
     b"POST /v1/embed HTTP/1.1\r\n" + HOST + b"Content-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
     b"GET /live HTTP/1.1\r\n" + HOST + b"\r\nGET /li"],
    ids=["first byte", "request line", "newlines", "headers", "body", "chunks", "second request"],
)  # fmt: skip
def test_slow_clients_are_left(small: Running, start: bytes) -> None:
    with small.connect() as connection:
        connection.sendall(start)
        if start:
            for _ in range(3):  # a drop now and then earns no time
                time.sleep(0.3)
                connection.sendall(b"\n" if start == b"\r\n\r\n" else b"a" if b"chunked" not in start else b"1\r\na\r\n")
        answer = read_all(connection)
    statuses = re.findall(rb"HTTP/1.1 (\d+)", answer)
    assert statuses == ([] if not start else [b"200", b"408"] if start.startswith(b"GET /live") else [b"408"])


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /live HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 600_000, b"431"),
        (b"POST /v1/embed HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"POST /v1/embed HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", b"400"),
        (b"POST /v1/embed HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"POST /v1/embed HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", b"400"),
        (b"POST /v1/embed HTTP/1.1\r\n" + HOST + b"Content-Length : 3\r\n\r\nabc", b"400"),
        (b"POST /v1/embed HTTP/1.1\r\n" + HOST + b"Content-Length: -3\r\n\r\nabc", b"400"),
        (b"GET /live HTTP/1.1\nHost: localhost\n\n", b"400"),
        (b"GET /live HTTP/1.1\r\n" + HOST + HOST + b"Connection: close\r\n\r\n", b"400"),
        (b"GET /live HTTP/1.1\r\nConnection: close\r\n\r\n", b"400"),
        (b"GET /docs HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", b"403"),
        (b"CONNECT example.com:80 HTTP/1.1\r\nHost: example.com:80\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
    ],
)  # fmt: skip
def test_tricks_with_headers_are_refused(small: Running, request_: bytes, status: bytes) -> None:
    with small.connect() as connection:
        answer = ask(connection, request_)
    assert answer.startswith(b"HTTP/1.1 " + status), answer[:300]
    assert answer.count(b"HTTP/1.1") == 1
