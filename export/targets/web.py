"""A folder for any static server: the encoder in the browser, by onnxruntime's WebAssembly; and a look at it in one."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sslfeat.data.transforms import open_image, read_file, resize_crop, to_rgb
from sslfeat.errors import ExportError
from sslfeat.export.targets.base import Source, TargetCheck
from sslfeat.export.targets.browser import ask, find_browser, served
from sslfeat.export.targets.full import onnx_full
from sslfeat.inference.backends import OnnxRuntimeBackend
from sslfeat.reports.thumbnails import thumbnails

PAGE = Path(__file__).parent / "web_page"
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
PACKAGE = "onnxruntime-web"
SAMPLES = 24  # images that the page knows
CHECKED, LONGEST = 64, 1024  # images that a browser embeds, and their longer side, px


def web(source: Source, out: Path) -> None:
    """``index.html``, its modules, the encoder (any size of image), samples and the runtime. Raises ExportError."""
    onnx_full(source, out)
    for file in PAGE.iterdir():
        shutil.copy(file, out / file.name)
    names = [name.decode("utf-8", "backslashreplace") for name in source.shown[:SAMPLES]]
    pixels = [np.asarray(resize_crop(_opened(name), source.file.card.preprocess)) for name in source.shown[:SAMPLES]]
    embeddings = OnnxRuntimeBackend(source.file.data, "cpu", 1).run(np.stack(pixels))
    samples = [
        {"name": Path(name).name, "uri": uri, "embedding": [round(float(value), 5) for value in row]}
        for name, uri, row in zip(names, thumbnails(names, 96), embeddings, strict=True)
    ]
    (out / "samples.json").write_text(json.dumps(samples), encoding="utf-8")
    _runtime(source.runtime, out)


def check_web(source: Source, out: Path, images: Sequence[bytes]) -> TargetCheck:
    """Embeddings by a real browser, of images sent as PNG so that both sides see the same pixels. Raises ExportError."""
    browser = find_browser()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "served"
        shutil.copytree(out, place)
        for number, image in enumerate(images[:CHECKED]):
            opened = to_rgb(open_image(read_file(image)))
            opened.thumbnail((LONGEST, LONGEST))
            opened.save(place / f"check-{number}.png")
        (place / "check.html").write_text(_CHECK.replace("COUNT", str(min(len(images), CHECKED))))
        with served(place) as (address, heard):
            found = ask(f"{address}/check.html", heard, Path(folder) / "profile")
        prep = source.file.card.preprocess
        wanted = [np.asarray(resize_crop(_opened(place / f"check-{n}.png"), prep)) for n in range(len(found))]
    reference = OnnxRuntimeBackend(source.file.data, "cpu", 1).run(np.stack(wanted))
    return TargetCheck(found, f"in {Path(browser).name}, wasm, one thread", reference)


_CHECK = """<!DOCTYPE html><meta charset="utf-8"><body><script type="module">
import { load, embed, pixels } from "./encoder.mjs";
try {
  const session = await load(), rows = [];
  for (let n = 0; n < COUNT; n++) {
    const { rgba, width, height } = await pixels(await (await fetch(`check-${n}.png`)).blob());
    rows.push([...await embed(session, rgba, width, height)]);
  }
  await fetch("found", { method: "POST", body: JSON.stringify(rows) });
} catch (error) { await fetch("found", { method: "POST", body: JSON.stringify(String(error)) }); }
</script>"""


def _runtime(given: Path | None, out: Path) -> None:
    """onnxruntime-web's three files, from a folder, or from npm's registry."""
    if given is not None:
        missing = [name for name in RUNTIME if not (given / name).is_file()]
        if missing:
            raise ExportError(f"{given} is not the dist folder of {PACKAGE}: {', '.join(missing)} not there")
        for name in RUNTIME:
            shutil.copy(given / name, out / name)
        return
    npm = shutil.which("npm")
    if npm is None:
        raise ExportError(f"there is no npm to fetch {PACKAGE}: give the package's dist folder with --web-runtime")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([npm, "pack", "--silent", PACKAGE], cwd=folder, capture_output=True, text=True, check=False)
        packed = list(Path(folder).glob("*.tgz"))
        if done.returncode or not packed:
            raise ExportError(f"npm could not fetch {PACKAGE}: {' '.join(done.stderr.split())[-300:]}")
        with tarfile.open(packed[0]) as archive:
            for name in RUNTIME:
                file = archive.extractfile(f"package/dist/{name}")
                if file is None:
                    raise ExportError(f"{packed[0].name} lacks {name}: give another version's dist folder: --web-runtime DIR")
                (out / name).write_bytes(file.read())


def _opened(path: str | bytes | Path) -> Image.Image:
    return to_rgb(open_image(read_file(path)))
