"""``sslfeat serve``: its routes answer as the command line and the library do, and to the clients of OpenAI and Triton."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from PIL import Image
from tritonclient import http as triton

from sslfeat import Encoder, Index
from sslfeat.errors import InputError
from sslfeat.features.reader import Features
from sslfeat.retrieval.vectors import COLUMNS
from sslfeat.serving.collection import Generation
from sslfeat.serving.points import Drawn
from tests.conftest import TINY_DIM, TINY_SIZE
from tests.drawn_rows import MADE_BY, described, drawn
from tests.serving import Running, images, make_classifier, make_index, running

__all__ = ["images"]


JPEG = {"content-type": "image/jpeg"}
NPY = {"accept": "application/x-npy"}


@pytest.fixture(scope="module")
def served(embedded: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("served")
    index = make_index(embedded, folder / "an index")
    classifier = make_classifier(Encoder.load(tiny).fingerprint, folder / "classifier")
    with running("--encoder", tiny, "--index", index, "--classifier", classifier) as service:
        yield service


@pytest.fixture
def client(served: Running) -> Iterator[httpx.Client]:
    with served.client() as found:
        yield found


def embedding(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    rows: np.ndarray = np.load(io.BytesIO(answer.content), allow_pickle=False)
    return rows


def test_info_page_and_docs(client: httpx.Client, tiny: Path) -> None:
    info = client.get("/v1/info").json()
    assert info["encoder"]["fingerprint"] == Encoder.load(tiny).fingerprint
    assert {"name", "fingerprint", "dim", "image_size", "license"} == set(info["encoder"])
    assert info["index"]["images"] == 40
    assert info["index"]["name"] == "an index"
    assert sum(info["index"]["labels"].values()) == 40
    assert info["classifier"] == {"classes": ["a", "b", "c"]}
    assert info["limits"] == {"max_bytes": 20 << 20, "max_images": 32, "max_top": 1000}
    for place in ("/", "/docs"):
        page = client.get(place)
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "access-control-allow-origin" not in page.headers
        assert "http://" not in page.text
        assert "https://" not in page.text
    assert set(client.get("/openapi.json").json()["paths"]) >= {"/v1/embed", "/v1/search", "/v2/models/{name}/infer"}
    assert client.get("/live").json() == {"live": True}
    assert client.get("/ready").json() == {"ready": True}


def test_features_are_the_command_lines_bit_for_bit(client: httpx.Client, images: list[Path], embedded: Path) -> None:
    features = Features.load(embedded)  # in batches of four
    rows = dict(zip(features.paths, features.embeddings, strict=True))
    for start in (0, 16):
        batch = images[start : start + 16]
        files = [("images", (path.name, path.read_bytes())) for path in batch]
        found = embedding(client.post("/v1/embed", files=files, headers=NPY))
        assert found.dtype == np.float32
        assert np.array_equal(found, np.stack([rows[str(path)] for path in batch]))
    single = embedding(client.post("/v1/embed", content=images[0].read_bytes(), headers={**JPEG, **NPY}))
    assert np.abs(single[0] - rows[str(images[0])]).max() < 1e-6


def test_json_numbers_are_read_back_exactly(client: httpx.Client, images: list[Path]) -> None:
    data = images[3].read_bytes()
    wanted = embedding(client.post("/v1/embed", content=data, headers={**JPEG, **NPY}))
    text = base64.b64encode(data).decode()
    for body in ({"image": text}, {"images": [text]}):
        answer = client.post("/v1/embed", json=body).json()
        assert np.array_equal(np.array(answer["embeddings"], np.float32), wanted)
        assert answer["encoder"]["dim"] == TINY_DIM
        assert answer["errors"] == [None]


def test_a_broken_image_has_its_own_error_in_its_place(client: httpx.Client, images: list[Path]) -> None:
    good = images[0].read_bytes()
    files = [("images", ("a", good)), ("images", ("b", b"no image")), ("images", ("c", good))]
    answer = client.post("/v1/embed", files=files).json()
    assert [row is None for row in answer["embeddings"]] == [False, True, False]
    assert answer["errors"] == [None, "not an image in a supported format", None]
    npy = client.post("/v1/embed", files=files, headers=NPY)
    assert np.isnan(embedding(npy)).all(1).tolist() == [False, True, False]
    assert list(json.loads(npy.headers["x-sslfeat-errors"])) == ["1"]
    named = client.post("/v1/predict?top=2", files=files).json()["predictions"]
    assert [len(item.get("labels", [])) for item in named] == [2, 0, 2]
    assert "not an image" in named[1]["error"]
    alone = client.post("/v1/embed", content=b"no image", headers=JPEG)
    assert alone.status_code == 422
    assert alone.json()["errors"] == ["not an image in a supported format"]


def test_searches_find_what_the_library_finds(client: httpx.Client, images: list[Path], embedded: Path, tiny: Path) -> None:
    index, encoder = Index.build(embedded), Encoder.load(tiny)
    image = images[7]
    wanted = [hit.path for hit in index.search([str(image)], 5, encoder=encoder).of(0)]
    found = client.post("/v1/search?top=5", content=image.read_bytes(), headers=JPEG).json()["hits"]
    assert [hit["path"] for hit in found] == wanted
    assert found[0] == {
        "id": index.row_of(str(image)),
        "path": str(image),
        "score": pytest.approx(1),
        "label": image.parent.name,
        "metadata": {},
    }
    for body in ({"id": found[0]["id"]}, {"path": str(image)}):
        others = client.post("/v1/search", json={**body, "top": 4}).json()["hits"]
        assert [hit["path"] for hit in others] == wanted[1:]
    vector = index.vectors([found[0]["id"]])[0].tolist()
    by_vector = client.post("/v1/search?top=5", json={"vector": vector}).json()["hits"]
    assert [hit["path"] for hit in by_vector] == wanted
    text = base64.b64encode(image.read_bytes()).decode()
    filtered = {"image": text, "where": ["label=squares", "path!~*0.jpg"], "min_score": -1.0}
    some = client.post("/v1/search", json=filtered).json()["hits"]
    assert some
    assert all(hit["label"] == "squares" and not hit["path"].endswith("0.jpg") for hit in some)
    one = client.post("/v1/search", json={"image": text, "where": "label=squares"}).json()["hits"]
    assert one and {hit["label"] for hit in one} == {"squares"}
    query = {"where": "label=squares", "min_score": "2"}
    assert client.post("/v1/search", params=query, files={"images": image.read_bytes()}).json()["hits"] == []


def test_hits_say_what_a_list_says_of_their_images(tmp_path: Path) -> None:
    rows = described(drawn(20))
    Index.build(rows).save(tmp_path / "index")
    served = Generation(tmp_path / "index", MADE_BY, Drawn())
    hits, notes = served.search(rows.embeddings[0], 20, ["year=7"], None)
    assert notes == []
    table = {row["path"]: row for row in rows.columns.to_pylist() if row["year"] == "7"}
    assert {hit["path"] for hit in hits} == set(table)
    for hit in hits:
        known = {name: text for name, text in table[hit["path"]].items() if text is not None and name not in COLUMNS}
        assert hit["metadata"] == known
    assert served.search(rows.embeddings[0], 20, ["year=x"], None)[1][0].startswith("where 'year=x': ")
    with pytest.raises(InputError, match=r"^where 'path>5': no value"):
        served.search(rows.embeddings[0], 20, ["path>5"], None)


def test_thumbnails_show_indexed_images_and_nothing_else(client: httpx.Client, images: list[Path], tmp_path: Path) -> None:
    found = client.get("/v1/images/3?size=32")
    thumbnail = Image.open(io.BytesIO(found.content))
    assert (thumbnail.format, max(thumbnail.size)) == ("JPEG", 32)
    again = client.get("/v1/images/3?size=32", headers={"if-none-match": found.headers["etag"]})
    assert again.status_code == 304
    assert client.get("/v1/images/3?size=5000").status_code == 422
    for place in (
        "40",
        "-1",
        "99999999999999999999",
        "../3",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "x",
    ):
        assert client.get(f"/v1/images/{place}").status_code in (404, 422)
    for place in ("/../../etc/passwd", "/page/../app.py", "//etc/passwd", "/index.html/../../app.py", "/%2e%2e/app.py"):
        assert client.get(place).status_code == 404


def test_the_map_has_every_image(client: httpx.Client) -> None:
    found = client.get("/v1/map").json()
    assert found["ids"] == list(range(40))
    assert len(found["labels"]) == 4
    assert {len(found[name]) for name in ("x", "y", "label")} == {40}
    assert np.std(found["x"]) >= np.std(found["y"]) > 0


def test_openais_client(client: httpx.Client, served: Running, images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = embedding(client.post("/v1/embed", content=images[0].read_bytes(), headers={**JPEG, **NPY}))
    url = "data:image/jpeg;base64," + base64.b64encode(images[0].read_bytes()).decode()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as theirs:
        found = theirs.embeddings.create(model="tiny", input=[url, url])
        assert np.array_equal(np.array(found.data[1].embedding, np.float32), wanted[0])
        plain = theirs.embeddings.create(model="tiny", input=url, encoding_format="float")
        assert np.array_equal(np.array(plain.data[0].embedding, np.float32), wanted[0])
        with pytest.raises(openai.NotFoundError, match="'other' is not served"):
            theirs.embeddings.create(model="other", input=url)
        for text in ("a cat", "http://example.com/cat.jpg", "data:image/png;base64,@@"):
            with pytest.raises(openai.UnprocessableEntityError):
                theirs.embeddings.create(model="tiny", input=text)


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client(served: Running, images: list[Path], tiny: Path, binary: bool) -> None:
    encoder = Encoder.load(tiny)
    with triton.InferenceServerClient(served.url.removeprefix("http://")) as theirs:
        assert theirs.is_server_live()
        assert theirs.is_server_ready()
        assert theirs.is_model_ready("tiny")
        assert theirs.is_model_ready("tiny-files", "1")
        assert not theirs.is_model_ready("other")
        assert theirs.get_server_metadata()["name"] == "sslfeat"
        assert theirs.get_model_metadata("tiny")["inputs"][0]["shape"] == [-1, TINY_SIZE, TINY_SIZE, 3]
        assert theirs.get_model_config("tiny")["input"][0]["data_type"] == "TYPE_UINT8"
        pixels = np.random.default_rng(0).integers(0, 256, (3, TINY_SIZE, TINY_SIZE, 3), np.uint8)
        given = triton.InferInput("image", pixels.shape, "UINT8").set_data_from_numpy(pixels, binary)
        asked = triton.InferRequestedOutput("embedding", binary_data=binary)
        found = theirs.infer("tiny", [given], outputs=[asked], request_id="seven")
        assert found.get_response()["id"] == "seven"
        assert np.array_equal(found.as_numpy("embedding"), encoder.run(pixels))
        if binary:
            files = np.array([path.read_bytes() for path in images[:2]], np.object_)
            sent = triton.InferInput("image", [2], "BYTES").set_data_from_numpy(files)
            rows = theirs.infer("tiny-files", [sent]).as_numpy("embedding")
            assert np.array_equal(rows, np.stack(list(encoder.embed(images[:2]))))


def test_metrics_and_logs_tell_what_happened(client: httpx.Client, served: Running, images: list[Path]) -> None:
    client.post("/v1/embed", content=images[0].read_bytes(), headers={**JPEG, "x-request-id": "mine-17"})
    text = client.get("/metrics").text
    for stage in ("receive", "wait", "decode", "infer"):
        assert f'sslfeat_stage_seconds_count{{stage="{stage}"}}' in text
    assert 'sslfeat_requests_total{method="POST",route="/v1/embed",status="200"}' in text
    logged = [json.loads(line) for line in served.log if "mine-17" in line]
    assert (logged[0]["path"], logged[0]["status"]) == ("/v1/embed", 200)
