"""A folder for any static server: the encoder in the browser, with onnxruntime's WebAssembly, tested in a browser."""

from __future__ import annotations

import html
import json
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sslfeat.data.read import read_image
from sslfeat.data.transforms import open_image, resize_crop
from sslfeat.data.upright import to_rgb
from sslfeat.errors import ExportError
from sslfeat.export.targets.base import Device, Source, TargetCheck
from sslfeat.export.targets.browser import find_browser, open_page, served
from sslfeat.export.targets.full import onnx_full
from sslfeat.inference.backends import OnnxRuntimeBackend, onnxruntime
from sslfeat.reports.thumbnails import thumbnails
from sslfeat.system.plurals import counted
from sslfeat.system.subprocesses import run_program

PAGE, INDEX = Path(__file__).parent / "web_page", "index.html"
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
PACKAGE = "onnxruntime-web"
LICENSE, NOTICES = "onnxruntime.LICENSE.txt", "onnxruntime.ThirdPartyNotices.txt"
TEXTS = {LICENSE: "LICENSE", NOTICES: "ThirdPartyNotices.txt"}
INSTALLED = Path(str(onnxruntime.__file__)).parent
DEVICE = Device(
    "`image`: uint8 (N, H, W, 3), any N, H and W; `encoder.mjs` makes it of an image", programs=("web.mjs.in",), any_size=True,
    third_party=f"ONNX Runtime Web (`ort*.mjs`, `ort*.wasm`): `{LICENSE}`; what is built into it: `{NOTICES}`",
)  # fmt: skip
SAMPLES, SIDE = 24, 256  # sample images of the page for searching, and their longer side in px
TIMEOUT = 300  # seconds for downloading the runtime
CHECKED, LONGEST = 64, 1024  # images embedded by a browser in the test, and their longer side in px
WHOLE, LONGEST_FILE = (
    16,
    4096,
)  # number of them tested as original files, and the size up to which encoder.mjs does not shrink, px
WEB_FORMATS, WEB_MODES = ("JPEG", "PNG", "WEBP"), ("RGB", "RGBA", "L", "P")  # CMYK and 16 bits were not measured


def web(source: Source, out: Path) -> None:
    """``index.html``, its modules, the encoder (images of any size), samples and the runtime. Raises ExportError."""
    _runtime(source.runtime, out)  # first, because the download may fail
    onnx_full(source, out)
    for file in PAGE.iterdir():
        shutil.copy(file, out / file.name)
    card = source.file.card
    about = f"{card.dim} numbers for every image, computed in this page"
    license = f"Weights: {card.license}. Training images: {card.training_data.name}; their license: {card.training_data.license}."
    page = (PAGE / INDEX).read_text("utf-8")
    for name, text in (("name", card.name), ("about", about), ("license", license)):
        page = page.replace("{{" + name + "}}", html.escape(text))
    (out / INDEX).write_text(page, encoding="utf-8")
    names = [name.decode("utf-8", "backslashreplace") for name in source.shown[:SAMPLES]]
    pixels = [np.asarray(resize_crop(_opened(name), card.preprocess)) for name in source.shown[:SAMPLES]]
    embeddings = OnnxRuntimeBackend(source.file.data, "cpu", 1).run(np.stack(pixels))
    samples = [
        {"name": Path(name).name, "uri": uri, "embedding": [round(float(value), 5) for value in row]}
        for name, uri, row in zip(names, thumbnails(names, SIDE), embeddings, strict=True)
    ]
    (out / "samples.json").write_text(json.dumps(samples), encoding="utf-8")


def check_web(source: Source, out: Path, images: Sequence[bytes]) -> TargetCheck:
    """Embeddings by a real browser: of original files, decoded by the browser, and of the other images as PNG, so that both
    sides see the same pixels. Raises ExportError."""
    browser = find_browser()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "served"
        shutil.copytree(out, place)
        whole = sum(_put(image, place / f"check-{number}", number < WHOLE) for number, image in enumerate(images[:CHECKED]))
        (place / "check.html").write_text(_CHECK.replace("COUNT", str(min(len(images), CHECKED))))
        with served(place) as (address, heard):
            found = open_page(f"{address}/check.html", heard, Path(folder) / "profile")
        prep = source.file.card.preprocess
        pixels = [np.asarray(resize_crop(_opened(place / f"check-{n}"), prep)) for n in range(len(found))]
    reference = OnnxRuntimeBackend(source.file.data, "cpu", 1).run(np.stack(pixels))
    return TargetCheck(found, f"in {Path(browser).name}, wasm, one thread; {counted(whole, 'file')} decoded by it", reference)


def _put(image: bytes, place: Path, whole: bool) -> bool:
    """Write an image to ``place`` for the browser, unchanged if ``whole`` and if pages support it; returns whether it is."""
    data = read_image(image)
    opened = open_image(data)
    if whole and opened.format in WEB_FORMATS and opened.mode in WEB_MODES and max(opened.size) <= LONGEST_FILE:
        place.write_bytes(data)
        return True
    opened = to_rgb(opened)
    opened.thumbnail((LONGEST, LONGEST))
    opened.save(place, "PNG")
    return False


_CHECK = """<!DOCTYPE html><meta charset="utf-8"><body><script type="module">
import { load, embed, pixels } from "./encoder.mjs";
try {
  const session = await load(), rows = [];
  for (let n = 0; n < COUNT; n++) {
    const { rgba, width, height } = await pixels(await (await fetch(`check-${n}`)).blob());
    rows.push([...await embed(session, rgba, width, height)]);
  }
  await fetch("found", { method: "POST", body: JSON.stringify(rows) });
} catch (error) { await fetch("found", { method: "POST", body: JSON.stringify(String(error)) }); }
</script>"""


def check_tools(given: Path | None) -> None:
    """Raises ExportError without a browser, without the runtime or npm to download it, or without its license."""
    find_browser()
    if lacking := [name for name in TEXTS.values() if not (INSTALLED / name).is_file()]:
        raise ExportError(f"{INSTALLED} lacks {', '.join(lacking)}, which the page must include", "install onnxruntime with pip")
    if given is None:
        _npm()
    elif missing := [name for name in RUNTIME if not (given / name).is_file()]:
        raise ExportError(f"{given} is not the dist folder of {PACKAGE}: {', '.join(missing)} not found")


def _npm() -> str:
    npm = shutil.which("npm")
    if npm is None:
        raise ExportError(
            f"npm is needed to download {PACKAGE}: install it, or give the package's dist folder with --web-runtime"
        )
    return npm


def _runtime(given: Path | None, out: Path) -> None:
    """onnxruntime-web's three files, from a folder or downloaded by npm, and their licenses.

    The npm package states its license without the text, which is taken from the same project's Python package.
    """
    for name, theirs in TEXTS.items():
        shutil.copy(INSTALLED / theirs, out / name)
    if given is not None:
        for name in RUNTIME:
            shutil.copy(given / name, out / name)
        return
    npm = _npm()
    with tempfile.TemporaryDirectory() as folder:
        run_program([npm, "pack", "--silent", PACKAGE], TIMEOUT, f"npm, which fetches {PACKAGE},", ExportError, Path(folder))
        packed = list(Path(folder).glob("*.tgz"))
        if not packed:
            raise ExportError(f"npm could not download {PACKAGE}")
        with tarfile.open(packed[0]) as archive:
            for name in RUNTIME:
                file = archive.extractfile(f"package/dist/{name}")
                if file is None:
                    raise ExportError(f"{packed[0].name} lacks {name}: give another version's dist folder with --web-runtime DIR")
                (out / name).write_bytes(file.read())


def _opened(path: str | bytes | Path) -> Image.Image:
    return to_rgb(open_image(read_image(path)))
