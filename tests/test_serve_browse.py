"""Browsing the collection without a query: the route, the index's rows, and the page in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from sslfeat import Index
from sslfeat.errors import InputError
from tests.service_page import HOSTILE, Setting, browser, found, needs_chromium, open_at, page, setting, until  # noqa: F401

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture
def client(setting: Setting) -> Iterator[httpx.Client]:
    with setting.service.client() as found:
        yield found


def browse(client: httpx.Client, **asked: Any) -> dict[str, Any]:
    answer = client.get("/v1/images", params=asked)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_pages_list_every_image_once_in_order(client: httpx.Client) -> None:
    first = browse(client)
    assert (len(first["images"]), first["total"], first["notes"]) == (24, 43, [])
    assert first["next"] == first["images"][-1]["id"]
    for limit in (1, 7, 43, 1000):
        told: list[dict[str, Any]] = []
        after, pages = -1, 0
        while after is not None:
            one = browse(client, limit=limit, after=after, revision=first["revision"])
            told, after, pages = told + one["images"], one["next"], pages + 1
        assert [item["id"] for item in told] == sorted({item["id"] for item in told})
        assert (len(told), pages) == (43, -(-43 // limit))
    paths = [item["path"] for item in told]
    assert client.post("/v1/images", json={"paths": paths}).json()["images"] == told


def test_conditions_select_images(client: httpx.Client) -> None:
    circles = browse(client, where="label=circles", limit=100)
    assert {item["label"] for item in circles["images"]} == {"circles"}
    assert circles["total"] == len(circles["images"]) == browse(client, where="label=circles", limit=1)["total"]
    both = browse(client, where=["label=circles", "path~*again*"])
    assert [Path(item["path"]).name for item in both["images"]] == ["again-1.jpg", "again-2.jpg"]
    none = browse(client, where="label=circle")
    assert (none["images"], none["total"], none["next"]) == ([], 0, None)
    assert "label is one of circles, squares" in none["notes"][0]
    assert browse(client, after=10**6)["images"] == []


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"limit": 0}, 422, "limit"),
        ({"limit": 1001}, 422, "limit"),
        ({"after": -2}, 422, "after"),
        ({"after": "x"}, 422, "after"),
        ({"top": 3}, 422, "unknown parameter 'top'"),
        ({"where": "label"}, 422, "where 'label' is invalid"),
        ({"where": ["label=a"] * 17}, 422, "too many or too long conditions"),
        ({"revision": "0" * 16}, 409, "has been updated"),
    ],
)
def test_wrong_requests_are_named(client: httpx.Client, asked: dict[str, Any], status: int, said: str) -> None:
    answer = client.get("/v1/images", params=asked)
    assert (answer.status_code, said in answer.json()["error"]) == (status, True), answer.text


def test_rows_of_an_index_leave_removed_ones_out() -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    index = Index.build(vectors, [f"{number % 2}/{number:02}.jpg" for number in range(20)])
    index.remove(["0/00.jpg", "1/05.jpg"])
    rows, notes = index.rows()
    assert (rows.tolist(), notes) == ([number for number in range(20) if number not in (0, 5)], ())
    rows, _ = index.rows("path~0/*")
    assert rows.tolist() == list(range(2, 20, 2))
    rows, notes = index.rows(["path~nothing"])
    assert (rows.tolist(), len(notes)) == ([], 1)
    with pytest.raises(InputError, match="unknown field"):
        index.rows("paths=a")
    hits = index.search(vectors[0], top=20, where="path~0/*").rows[0]
    assert sorted(hits[hits >= 0].tolist()) == list(range(2, 20, 2))
    assert np.isin(hits[hits >= 0], index.rows("path~0/*")[0]).all()


def heading(page: Page, text: str) -> None:
    until(page, f"document.querySelector('#heading').textContent === {json.dumps(text)}")


@needs_chromium
def test_the_page_lists_all_images_and_filters_them(page: Page, setting: Setting) -> None:
    heading(page, "Choose an image to start")
    assert not page.is_visible("#least")
    page.click("#all")
    heading(page, "43 images")
    assert page.locator("#hits figure").count() == 24
    page.click("#further")
    until(page, "document.querySelectorAll('#hits figure').length === 43")
    assert not page.is_visible("#further")
    names = [one.get_attribute("data-name") for one in page.locator("#hits figure").all()]
    assert len(set(names)) == 43
    page.select_option("select[name=label]", "circles")
    until(page, "document.querySelector('#heading').textContent !== '43 images'")
    page.fill("input[name=path]", "again")
    heading(page, "2 images")
    address = page.url
    page.click("#hits .image >> nth=0")
    until(page, "document.querySelector('#heading').textContent.endsWith(' nearest')")
    page.go_back()
    heading(page, "2 images")
    page.fill("input[name=path]", "nowhere")
    heading(page, "0 images")
    assert "no path matches" in page.inner_text("#message")
    page.click("#clear")
    heading(page, "Choose an image to start")
    assert page.input_value("input[name=path]") == ""
    open_at(page, setting, address.partition("/#")[1][1:] + address.partition("/#")[2])
    heading(page, "2 images")
    page.fill("input[name=path]", "onerror")
    page.select_option("select[name=label]", "")
    heading(page, "1 image")
    assert HOSTILE in (page.locator("#hits figure").get_attribute("data-name") or "")
    page.click("#hits .image")
    until(page, "document.querySelector('#title').textContent.includes('onerror')")
