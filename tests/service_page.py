"""What the tests of the service's page share: a service, a browser, and its page on a phone and a desktop, light and dark."""

from __future__ import annotations

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

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to look at pages with")

HOSTILE = "<img src=x onerror=alert(1)>\"'.jpg"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
]  # fmt: skip
REFUSED = re.compile("status of 4(04|22)")
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
    clusters: Path


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
    clusters = folder / "clusters"
    assert sslfeat("cluster", folder / "features", "-k", "3", "--out", clusters).returncode == 0
    options = ("--encoder", tiny, "--index", index, "--classifier", classifier, "--duplicates", groups, "--clusters", clusters)
    with running(*options) as service:
        yield Setting(service, image, folder / "groups.decided.json", clusters)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
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
        if told.type in ("error", "warning") and not REFUSED.search(told.text):  # whatever is made of it
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
