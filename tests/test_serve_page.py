"""The service's page in a real browser: searching, filters, the larger view, duplicates, by mouse and by keyboard."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

import pytest
from PIL import Image

from tests.conftest import sslfeat
from tests.service_page import GIVE, HOSTILE, LOOKS, Setting, browser, found, needs_chromium, open_at, page, setting, until  # noqa: F401 - fixtures
from tests.serving import running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = needs_chromium


@pytest.mark.parametrize("page", LOOKS, indirect=True, ids=str)
def test_a_click_searches_and_back_returns(page: Page) -> None:
    assert page.inner_text("#heading") == "Choose an image to start"
    assert page.inner_text("#about") == "43 images · tiny"
    name = page.locator("#hits figure").nth(3).get_attribute("data-name") or ""
    page.click("#hits .image >> nth=3")
    found(page)
    assert page.inner_text("#title") == "/".join(Path(name).parts[-2:])
    assert page.locator(".preview figure.reference").count() == 1
    assert name not in [one.get_attribute("data-name") for one in page.locator("#hits figure").all()]
    assert re.search(r"#like=[^&]+\.jpg$", page.url)
    until(page, "[...document.querySelectorAll('#hits img')].slice(0, 6).every((image) => image.naturalWidth)")
    with Image.open(io.BytesIO(page.screenshot())) as image:
        dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
        assert (sum(image.convert("RGB").getpixel((3, 3))) < 300) == dark  # type: ignore[arg-type]
    page.go_back()
    until(page, "document.querySelector('#heading').textContent.startsWith('Choose')")
    assert page.is_visible("#filters")
    assert not page.is_visible("#least")
    page.go_forward()
    found(page)
    page.click("#clear")
    until(page, "document.querySelector('#heading').textContent.startsWith('Choose')")


@pytest.mark.parametrize("how", ["choose", "drop", "paste"])
def test_an_image_from_outside(page: Page, setting: Setting, how: str) -> None:
    if how == "choose":
        with page.expect_file_chooser() as chooser:
            page.focus("#pick")
            page.keyboard.press("Enter")
        chooser.value.set_files(setting.image)
    else:
        text = base64.b64encode(setting.image.read_bytes()).decode()
        if how == "drop":
            page.evaluate(GIVE, ["dragenter", text])
            assert page.evaluate("document.body.classList.contains('dropping')")
        page.evaluate(GIVE, [how, text])
    assert float(found(page)[0].split()[0]) == pytest.approx(1, abs=1e-3)
    assert page.locator("#hits figure").first.get_attribute("data-name") == str(setting.image)
    assert page.inner_text("#title") == (setting.image.name if how == "choose" else "given.jpg")
    names = page.locator("#names li")
    assert names.count() == 3
    assert sum(int(text.rstrip("%")) for text in names.locator(".soft").all_inner_texts()) in (99, 100, 101)
    assert not page.evaluate("document.body.classList.contains('dropping')")


def test_what_is_no_image_is_refused_in_words(page: Page, tmp_path: Path) -> None:
    (tmp_path / "no.jpg").write_text("no image")
    page.set_input_files("#file", tmp_path / "no.jpg")
    page.wait_for_selector("#message:not([hidden])")
    assert "not an image in a supported format" in page.inner_text("#message")
    assert page.inner_text("#heading") == "Not found"
    page.wait_for_load_state("networkidle")  # the search and the classifier both answer
    page.evaluate("dispatchEvent(new DragEvent('drop', { dataTransfer: new DataTransfer(), cancelable: true }))")
    assert "Links are not followed" in page.inner_text("#message")


def test_filters(page: Page) -> None:
    page.click("#hits .image >> nth=0")
    before = found(page)
    page.select_option("select[name=label]", "stripes")
    assert {caption.split()[1] for caption in found(page, 10)} == {"stripes"}
    assert "label=stripes" in page.url
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.input_value("select[name=label]") == "stripes"
    page.select_option("select[name=label]", "")
    page.fill("input[name=path]", "squares-000")
    named = "[...document.querySelectorAll('#hits figure')].map((figure) => figure.dataset.name)"
    until(page, f"{named}.length > 0 && {named}.every((name) => name.includes('squares-000'))")
    page.fill("input[name=path]", "")
    found(page)
    least = float(before[4].split()[0]) - 0.0005
    page.focus("input[name=min]")
    page.evaluate("(least) => { const field = document.querySelector('[name=min]'); field.step = '0.0001'; field.value = least; "
                  "field.dispatchEvent(new Event('input', { bubbles: true })); }", least)  # fmt: skip
    until(page, "document.querySelectorAll('#hits figure').length < 24")
    page.keyboard.press("Home")
    found(page)
    page.select_option("select[name=top]", "12")
    found(page, 12)
    page.fill("input[name=path]", "nowhere")
    page.wait_for_selector("#message:not([hidden])")
    assert "Nothing found" in page.inner_text("#message")


def test_the_larger_view(page: Page, setting: Setting) -> None:
    page.click("#hits .image >> nth=0")
    found(page)
    figures = page.locator("#hits figure")
    figures.nth(1).hover()
    figures.nth(1).locator(".enlarge").click()
    assert page.locator("dialog.view").is_visible()
    assert page.inner_text(".told p >> nth=0") == figures.nth(1).get_attribute("data-name")
    named = quote_plus(figures.nth(1).get_attribute("data-name") or "", safe="*-._")
    assert f"image={named}" in page.url
    until(page, "document.querySelector('.stage img').naturalWidth > 0")
    assert "size=1024" in (page.get_attribute(".stage img", "src") or "")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text(".told p >> nth=0") == figures.nth(2).get_attribute("data-name")
    page.click(".turn >> nth=0")
    assert page.inner_text(".told p >> nth=0") == figures.nth(1).get_attribute("data-name")
    link = page.get_attribute(".told a", "href") or ""
    page.keyboard.press("Escape")
    assert not page.locator("dialog.view").is_visible()
    until(page, "!location.hash.includes('image=')")
    name = figures.nth(1).get_attribute("data-name")
    open_at(page, setting, link)
    page.wait_for_selector("dialog.view[open]")
    assert page.inner_text(".told p >> nth=0") == name
    page.click(".told button")
    found(page)
    assert link.removeprefix("#image=") == page.url.rpartition("like=")[2]
    open_at(page, setting, "#like=nothing")
    assert page.inner_text("#heading") == "Not found"
    assert "no image with this path" in page.inner_text("#message")


def test_everything_is_reached_by_the_tab_key(page: Page) -> None:
    page.click("#hits .image >> nth=0")
    found(page)
    page.evaluate("document.activeElement.blur()")
    seen = set()
    focused = "(({ id, name, className, tagName }) => id || name || className || tagName)(document.activeElement)"
    for _ in range(120):
        page.keyboard.press("Tab")
        seen.add(page.evaluate(focused))
    assert {"pick", "clear", "label", "path", "min", "top", "image", "enlarge", "brand", "CANVAS"} <= seen
    first = page.locator("#hits .image").first
    first.focus()
    page.keyboard.press("Enter")
    until(page, "location.hash.startsWith('#like=')")
    found(page)


def test_images_are_named_by_their_ids(setting: Setting) -> None:
    with setting.service.client() as client:
        told = client.post("/v1/images", json={"ids": [5, 0]}).json()["images"]
        assert [sorted(item) for item in told] == [["id", "label", "metadata", "path"]] * 2
        assert [item["id"] for item in told] == [5, 0]
        assert told[1]["label"] == "circles"
        revision = client.get("/v1/info").json()["index"]["revision"]
        assert client.post("/v1/images", json={"ids": []}).json() == {"images": [], "revision": revision}
        assert client.post("/v1/images", json={"paths": [told[0]["path"]]}).json()["images"] == told[:1]
        assert client.post("/v1/images", json={"paths": ["nowhere.jpg"]}).status_code == 404
        for ids, status in (([43], 404), ([-1], 404), (["x"], 422), ([0] * 100_001, 422)):
            assert client.post("/v1/images", json={"ids": ids}).status_code == status


@pytest.mark.parametrize("by_key", [False, True])
def test_duplicates_are_decided_in_pairs(page: Page, setting: Setting, by_key: bool) -> None:
    setting.plan.unlink(missing_ok=True)
    total = int(page.inner_text("#pair-about").split()[2])
    while page.is_enabled("#pair-back"):
        page.click("#pair-back")
    assert page.inner_text("#pair-about").endswith("suggested: keep left")
    names = page.locator("#pair figcaption span").all_inner_texts()
    right = page.locator("[data-keep=right]")
    if right.get_attribute("aria-pressed") == "true":
        right.click()  # of the test before: undecided again
    right.focus()
    page.keyboard.press("3") if by_key else right.click()
    until(page, "document.querySelector('#pair figure:last-child').classList.contains('reference')")
    until(page, "document.querySelector('#plan').textContent.startsWith('1 decided')")  # the last of what was saved in turn
    assert not page.evaluate("document.querySelector('#command').hidden")
    plan = json.loads(setting.plan.read_text())
    assert plan["groups"][0]["kept"]["path"].endswith(names[1])
    assert plan["groups"][0]["copies"][0]["path"].endswith(names[0])
    if total > 1:
        until(page, "document.querySelector('#pair-about').textContent.startsWith('2 ')")
        page.locator("#pair-back").focus()
        page.keyboard.press("ArrowLeft")
        until(page, "document.querySelector('#pair-about').textContent.startsWith('1 ')")
    page.click("#pair .image >> nth=0")
    assert page.inner_text(".told p >> nth=0").endswith(names[0])
    page.keyboard.press("Escape")


def test_hostile_names_are_text(page: Page) -> None:
    page.click("#hits .image >> nth=0")
    found(page)
    page.fill("input[name=path]", "onerror")
    until(page, "document.querySelectorAll('#hits figure').length === 1")
    assert HOSTILE in (page.locator("#hits figure").get_attribute("data-name") or "")
    page.click("#hits .image")
    until(page, "document.querySelector('#title').textContent.includes('onerror')")
    assert page.locator("img[src=x]").count() == 0


def test_a_page_of_before_the_index_was_brought_up_to_date_says_so(
    browser: Browser, image_folder: Path, tiny: Path, tmp_path: Path
) -> None:
    folder, index = tmp_path / "images", tmp_path / "index"
    shutil.copytree(image_folder, folder)
    assert sslfeat("index", folder, "--encoder", tiny, "--out", index).returncode == 0
    with running("--encoder", tiny, "--index", index) as service:
        page = browser.new_page()
        page.goto(service.url)
        page.wait_for_selector("html[data-ready]")
        page.click("#hits .image >> nth=0")
        found(page)
        shown, address = page.inner_text("#title"), page.url
        assert not page.is_visible("#outdated")
        for path in sorted(folder.rglob("*.jpg"))[:10]:
            if not str(path).endswith(shown):
                path.unlink()
        # built anew: each row is of another image
        assert sslfeat("index", folder, "--encoder", tiny, "--out", index, "--overwrite").returncode == 0
        with service.client() as client:
            while client.get("/v1/info").json()["index"]["images"] == 40:
                page.wait_for_timeout(50)
        figure = page.locator("#hits figure").nth(5)
        figure.hover()
        figure.locator(".enlarge").click()
        page.wait_for_selector("dialog #outdated")
        assert page.inner_text(".stage") == "cannot be shown"
        page.keyboard.press("Escape")
        page.wait_for_selector("main #outdated:not([hidden])")
        left = page.locator("#hits figure")
        names = [one.get_attribute("data-name") or "" for one in left.all()]
        left.nth(next(place for place, name in enumerate(names) if Path(name).exists())).locator(".image").click()
        until(page, f"document.querySelector('#title').textContent !== '{shown}'")
        found(page)  # by its path
        loaded = "[...document.querySelectorAll('#hits img, .preview img')].slice(0, 6).every((image) => image.naturalWidth)"
        until(page, loaded)
        assert Path(page.locator(".preview figure").get_attribute("data-name") or "").exists()
        page.click("[data-inview]")  # by their ids
        page.wait_for_selector("#message:not([hidden])")
        assert "reload the page" in page.inner_text("#message")
        page.goto(address)
        page.reload()
        page.wait_for_selector("html[data-ready]")
        found(page)
        assert page.inner_text("#title") == shown
        assert not page.is_visible("#outdated")
        page.close()


def test_metadata_stands_below_images_and_in_the_larger_view(
    browser: Browser, image_folder: Path, tiny: Path, tmp_path: Path
) -> None:
    lines = [f"{path},{n},<b>sku {n},Acme,red" for n, path in enumerate(sorted(image_folder.rglob("*.jpg"))[:12])]
    (tmp_path / "list.csv").write_text("\n".join(["path,price,sku,brand,tint", *lines]))
    assert sslfeat("index", tmp_path / "list.csv", "--encoder", tiny, "--out", tmp_path / "index").returncode == 0
    with running("--encoder", tiny, "--index", tmp_path / "index") as service:
        page = browser.new_page()
        page.goto(service.url)
        page.wait_for_selector("html[data-ready]")
        page.click("#hits .image >> nth=0")
        found(page, 11)
        facts = page.locator("#hits figure").first.locator(".fact")
        assert re.fullmatch(r"brand: Acme\nprice: \d+\nsku: <b>sku \d+", "\n".join(facts.all_inner_texts()))
        assert (facts.first.get_attribute("title") or "").endswith("\ntint: red")
        page.click(".preview .image")
        assert page.inner_text(".told .facts").endswith(" · tint: red")
        page.close()


def test_images_that_fail_soon_after_a_look_are_looked_for_again(page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/v1/info") else None)
    fail = "import('/api.js').then((api) => api.lookAgain())"
    page.evaluate(fail)
    page.wait_for_timeout(500)
    assert len(asked) == 1
    for _ in range(3):
        page.evaluate(fail)
    page.wait_for_timeout(5500)
    assert len(asked) == 2
