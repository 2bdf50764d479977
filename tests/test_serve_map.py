"""The map of the service's page in a real browser: points, a lasso, keys and fingers."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sslfeat.evaluation.clustering.storage import read_clusters
from tests.service_page import LOOKS, Setting, browser, found, needs_chromium, page, setting, until  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = needs_chromium


def lasso(page: Page, reach: float = 0.49) -> None:
    """Draw a ring around the middle of the map."""
    page.locator("#map canvas").scroll_into_view_if_needed()
    box = page.locator("#map canvas").bounding_box()
    assert box is not None
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    turns = [2 * math.pi * step / 24 for step in range(25)]
    ring = [(middle[0] + reach * box["width"] * math.cos(t), middle[1] + reach * box["height"] * math.sin(t)) for t in turns]
    page.mouse.move(*ring[0])
    page.mouse.down()
    for place in ring:
        page.mouse.move(*place)
    page.mouse.up()


@pytest.mark.parametrize("page", LOOKS[1:2], indirect=True, ids=str)
def test_a_hundred_thousand_points_are_drawn_and_taken_at_once(page: Page) -> None:
    drawn, taken = page.evaluate("""async () => {
      const { Plane } = await import("/plane.js"), canvas = document.createElement("canvas"), count = 100_000;
      Object.assign(canvas.style, { display: "block", width: "1168px", height: "675px" });
      document.body.append(canvas);
      const some = (n) => Float32Array.from({ length: n }, () => Math.random() + Math.random() + Math.random());
      const group = Uint8Array.from({ length: count }, (_, n) => n % 20), colors = Array(20).fill("#4477aa");
      const plane = new Plane(canvas, { x: some(count), y: some(count), group, colors });
      plane.draw();
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      const drawn = data.reduce((sum, value, at) => sum + (at % 4 === 3 && value > 0), 0);
      plane.lasso([[-9, -9], [1177, -9], [1177, 684], [-9, 684]]);
      return [drawn, plane.mask.reduce((sum, one) => sum + one, 0)];
    }""")
    assert drawn > 10_000
    assert taken == 100_000


def test_a_lasso_takes_images_as_gallery_names_and_table(page: Page) -> None:
    page.click("[data-lasso]")
    lasso(page)
    page.wait_for_selector("#sample figure")
    count = int(page.inner_text("#count").split()[0])
    assert 30 < count <= 43
    until(page, f"document.querySelectorAll('#sample figure').length === {count}")
    page.click("#list")
    page.wait_for_selector("#listed:not([hidden])")
    assert len(page.input_value("#listed").splitlines()) == count
    with page.expect_download() as saved:
        page.click("#csv")
    lines = Path(saved.value.path()).read_text().splitlines()
    assert lines[0] == "id,path,label"
    assert len(lines) == count + 1
    page.click("#drop-taken")
    assert not page.is_visible("#taken")
    page.click("[data-lasso]")
    assert page.get_attribute("[data-lasso]", "aria-pressed") == "false"


def test_points_show_images_and_are_clicked(page: Page) -> None:
    canvas = page.locator("#map canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    rows = [(x, y) for y in range(10, int(box["height"]), 12) for x in range(10, int(box["width"]), 12)]
    for x, y in rows:
        page.mouse.move(box["x"] + x, box["y"] + y)
        if page.is_visible("#map .tip"):
            break
    until(page, "document.querySelector('.tip img').naturalWidth > 0")
    until(page, "document.querySelector('.tip span').textContent.includes('.jpg')")
    name = page.inner_text(".tip span").split(": ")[1]
    page.mouse.down()
    page.mouse.up()
    found(page)
    assert page.inner_text("#title") == name
    ink = "document.querySelector('#map canvas').toDataURL().length"
    whole = page.evaluate(ink)
    for button in page.locator("#legend button").all()[1:]:
        button.click()
    until(page, f"{ink} < {whole}")
    page.click("[data-zoom='1.5']")
    page.click("[data-zoom='0']")


@pytest.mark.parametrize("page", LOOKS[:1], indirect=True, ids=str)
def test_a_finger_sees_an_image_first_and_then_takes_it(page: Page) -> None:
    canvas = page.locator("#map canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    for y in range(20, int(box["height"]), 14):
        for x in range(20, int(box["width"]), 14):
            if not page.is_visible("#map .tip"):
                page.touchscreen.tap(box["x"] + x, box["y"] + y)
                place = box["x"] + x, box["y"] + y
    until(page, "document.querySelector('.tip span').textContent.includes('.jpg')")
    assert "Choose an image" in page.inner_text("#heading")
    page.touchscreen.tap(*place)
    found(page)


def test_the_map_by_keyboard(page: Page) -> None:
    page.focus("#map canvas")
    for key in ("+", "+", "ArrowLeft", "ArrowUp", "-", "ArrowRight"):
        page.keyboard.press(key)
    if not page.is_visible("#map .tip"):
        page.keyboard.press("0")
        page.keyboard.press("+")
    page.focus("[data-inview]")
    page.keyboard.press("Enter")
    page.wait_for_selector("#sample figure")
    some = int(page.inner_text("#count").split()[0])
    assert 0 < some <= 43
    page.focus("#map canvas")
    page.keyboard.press("Escape")
    assert not page.is_visible("#taken")
    page.keyboard.press("0")
    page.focus("[data-inview]")
    page.keyboard.press("Space")
    until(page, "document.querySelector('#count').textContent.startsWith('43 ')")
    page.focus("#map canvas")
    for key in ("ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight") * 8:
        page.keyboard.press(key)
        if page.is_visible("#map .tip"):
            break
    page.keyboard.press("Enter")
    found(page)


def test_what_was_found_is_ringed_on_the_map(page: Page) -> None:
    drawn = "document.querySelector('#map canvas').toDataURL()"
    before = page.evaluate(drawn)
    page.click("#hits .image >> nth=0")
    found(page)
    until(page, f"{drawn} !== {json.dumps(before)}")
    page.click("#clear")
    until(page, f"{drawn} === {json.dumps(before)}")


def test_the_map_is_colored_by_label_or_by_cluster(page: Page, setting: Setting) -> None:
    with setting.service.client() as client:
        points = client.get("/v1/map").json()
        names = client.post("/v1/images", json={"ids": points["ids"]}).json()["images"]
    clusters = read_clusters(setting.clusters, [item["path"] for item in names])
    assert [points["clusters"][code] for code in points["cluster"]] == clusters
    legend = page.locator("#legend button")
    labels = legend.all_inner_texts()
    assert any("squares" in text for text in labels)
    page.locator("#color-by").select_option("cluster")
    counts = Counter(clusters)
    assert sorted(legend.all_inner_texts()) == sorted(f"cluster {name}\n{count}" for name, count in counts.items())
    page.locator("#map canvas").focus()
    legend.first.click()  # hides a group: the plane knows the new ones
    assert legend.first.get_attribute("aria-pressed") == "false"
    page.locator("#color-by").select_option("label")
    assert legend.all_inner_texts() == labels
