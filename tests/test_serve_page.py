"""The service's page in a real browser: every function by mouse and by keyboard, on a phone and a desktop, light and dark."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from sslfeat import Encoder
from tests.browser import CHROMIUM, DESKTOP, PHONE, TOO_WIDE
from tests.conftest import sslfeat
from tests.serving import Running, make_classifier, make_index, running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to look at pages with")

HOSTILE = "<img src=x onerror=alert(1)>\"'.jpg"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
]  # fmt: skip
LOOKS = [(PHONE, True), (DESKTOP, False), (PHONE, False), (DESKTOP, True)]
GIVE = """async ([how, text]) => {
  const data = new DataTransfer(), bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  data.items.add(new File([bytes], "given.jpg", { type: "image/jpeg" }));
  const event = how === "paste" ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true })
    : new DragEvent(how, { dataTransfer: data, bubbles: true, cancelable: true });
  document.body.dispatchEvent(event);
}"""


@dataclass(frozen=True)
class Setting:
    """A service of 43 images, one with a hostile name and two that are copies, and one of its images."""

    service: Running
    image: Path
    plan: Path


@pytest.fixture(scope="module")
def setting(image_folder: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    folder = tmp_path_factory.mktemp("paged")
    shutil.copytree(image_folder, folder / "images")
    image = sorted((folder / "images" / "squares").iterdir())[0]
    for number in (1, 2):
        copied = folder / "images" / "circles" / f"circles-000{number}.jpg"
        shutil.copy(copied, copied.with_name(f"again-{number}.jpg"))
    Image.new("RGB", (40, 30), "teal").save(folder / "images" / "squares" / HOSTILE)
    assert sslfeat("embed", folder / "images", "--encoder", tiny, "--out", folder / "features").returncode == 0
    index = make_index(folder / "features", folder / "index")
    classifier = make_classifier(Encoder.load(tiny).fingerprint, folder / "classifier")
    groups = folder / "groups.json"
    groups.write_text(sslfeat("dedupe", folder / "features", "--json").stdout)
    options = ("--encoder", tiny, "--index", index, "--classifier", classifier, "--duplicates", groups)
    with running(*options) as service:
        yield Setting(service, image, folder / "groups.decided.json")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(params=LOOKS[:2], ids=str)
def page(request: pytest.FixtureRequest, browser: Browser, setting: Setting) -> Iterator[Page]:
    """The page when it is ready. What it complains of, and what it asks of others, fails the test."""
    (width, height), dark = request.param
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        has_touch=(width, height) == PHONE,
    )
    found, wrong = context.new_page(), list[str]()
    found.set_default_timeout(20_000)

    def heard(told: ConsoleMessage) -> None:
        if told.type in ("error", "warning") and "status of 422" not in told.text:  # a refusal, whatever is made of it
            wrong.append(told.text)

    def asked(request: Request) -> None:
        if not request.url.startswith((setting.service.url, "blob:", "data:")):
            wrong.append(request.url)

    found.on("console", heard)
    found.on("pageerror", lambda error: wrong.append(str(error)))
    found.on("request", asked)
    open_at(found, setting)
    yield found
    wide = found.evaluate(TOO_WIDE)
    context.close()
    assert wrong == []
    assert not wide


def open_at(page: Page, setting: Setting, address: str = "") -> None:
    page.goto("about:blank")
    page.goto(f"{setting.service.url}/{address}")
    page.wait_for_selector("html[data-ready]")


def until(page: Page, condition: str) -> None:
    """Wait for a condition. Playwright's own way compiles it in the page, which the page's policy forbids."""
    end = time.monotonic() + 20
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(30)


def found(page: Page, count: int = 24) -> list[str]:
    """Captions of the hits, once there are so many."""
    until(page, f"document.querySelector('#heading').textContent === '{count} nearest'")
    captions: list[str] = page.locator("#hits figcaption b").all_inner_texts()
    assert len(captions) == count
    scores = [float(caption.split()[0]) for caption in captions]
    assert scores == sorted(scores, reverse=True)
    return captions


@pytest.mark.parametrize("page", LOOKS, indirect=True, ids=str)
def test_a_click_searches_and_back_returns(page: Page) -> None:
    assert page.inner_text("#heading") == "Begin with one of these"
    assert page.inner_text("#about") == "43 images · tiny"
    name = page.locator("#hits figure").nth(3).get_attribute("data-name") or ""
    page.click("#hits .image >> nth=3")
    found(page)
    assert page.inner_text("#title") == "/".join(Path(name).parts[-2:])
    assert page.locator(".preview figure.reference").count() == 1
    assert name not in [one.get_attribute("data-name") for one in page.locator("#hits figure").all()]
    assert re.search(r"#like=\d+$", page.url)
    until(page, "[...document.querySelectorAll('#hits img')].slice(0, 6).every((image) => image.naturalWidth)")
    with Image.open(io.BytesIO(page.screenshot())) as image:
        dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
        assert (sum(image.convert("RGB").getpixel((3, 3))) < 300) == dark  # type: ignore[arg-type]
    page.go_back()
    until(page, "document.querySelector('#heading').textContent.startsWith('Begin')")
    assert not page.is_visible("#filters")
    page.go_forward()
    found(page)
    page.click("#clear")
    until(page, "document.querySelector('#heading').textContent.startsWith('Begin')")


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
    assert "not an image in a format that sslfeat reads" in page.inner_text("#message")
    assert page.inner_text("#heading") == "Not found"
    page.evaluate("dispatchEvent(new DragEvent('drop', { dataTransfer: new DataTransfer(), cancelable: true }))")
    assert "links are not followed" in page.inner_text("#message")


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
    assert "Nothing was found" in page.inner_text("#message")


def test_the_larger_view(page: Page, setting: Setting) -> None:
    page.click("#hits .image >> nth=0")
    found(page)
    figures = page.locator("#hits figure")
    figures.nth(1).hover()
    figures.nth(1).locator(".enlarge").click()
    assert page.locator("dialog.view").is_visible()
    assert page.inner_text(".told p >> nth=0") == figures.nth(1).get_attribute("data-name")
    assert f"image={figures.nth(1).get_attribute('data-id')}" in page.url
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
    open_at(page, setting, "#like=nothing&image=none")
    assert page.inner_text("#heading") == "Begin with one of these"


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
def test_a_hundred_thousand_points_are_drawn_at_once(page: Page) -> None:
    frame, lassoed, taken = page.evaluate("""async () => {
      const { Plane } = await import("/plane.js"), canvas = document.createElement("canvas"), count = 100_000;
      Object.assign(canvas.style, { display: "block", width: "1168px", height: "675px" });
      document.body.append(canvas);
      const some = (n) => Float32Array.from({ length: n }, () => Math.random() + Math.random() + Math.random());
      const group = Uint8Array.from({ length: count }, (_, n) => n % 20), colors = Array(20).fill("#4477aa");
      const plane = new Plane(canvas, { x: some(count), y: some(count), group, colors });
      const took = (act) => { const began = performance.now(); act(); return performance.now() - began; };
      const frames = Array.from({ length: 20 }, () => took(() => plane.draw())).sort((a, b) => a - b);
      const lasso = took(() => plane.lasso([[-9, -9], [1177, -9], [1177, 684], [-9, 684]]));
      return [frames[10], lasso, plane.mask.reduce((sum, one) => sum + one, 0)];
    }""")
    assert taken == 100_000
    assert frame < 25
    assert lassoed < 250


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
    assert "Begin" in page.inner_text("#heading")
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


def test_what_was_found_is_ringed_on_the_map(page: Page) -> None:
    drawn = "document.querySelector('#map canvas').toDataURL()"
    before = page.evaluate(drawn)
    page.click("#hits .image >> nth=0")
    found(page)
    until(page, f"{drawn} !== {json.dumps(before)}")
    page.click("#clear")
    until(page, f"{drawn} === {json.dumps(before)}")


def test_images_are_named_by_their_ids(setting: Setting) -> None:
    with setting.service.client() as client:
        told = client.post("/v1/images", json={"ids": [5, 0]}).json()["images"]
        assert [sorted(item) for item in told] == [["id", "label", "path"]] * 2
        assert [item["id"] for item in told] == [5, 0]
        assert told[1]["label"] == "circles"
        assert client.post("/v1/images", json={"ids": []}).json() == {"images": []}
        for ids, status in (([43], 404), ([-1], 404), (["x"], 422), ([0] * 100_001, 422)):
            assert client.post("/v1/images", json={"ids": ids}).status_code == status


@pytest.mark.parametrize("by_key", [False, True])
def test_duplicates_are_decided_in_pairs(page: Page, setting: Setting, by_key: bool) -> None:
    setting.plan.unlink(missing_ok=True)
    total = int(page.inner_text("#pair-about").split()[2])
    while page.is_enabled("#pair-back"):
        page.click("#pair-back")
    names = page.locator("#pair figcaption span").all_inner_texts()
    right = page.locator("[data-keep=right]")
    if right.get_attribute("aria-pressed") == "true":
        right.click()  # of the test before: undecided again
    right.focus()
    page.keyboard.press("3") if by_key else right.click()
    until(page, "document.querySelector('#pair figure:last-child').classList.contains('reference')")
    until(page, "!document.querySelector('#command').hidden")
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
