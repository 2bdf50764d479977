"""The pages of the documentation: their fenced blocks, and the folder in which the blocks of a page are run."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sslfeat.data.synthetic import draw_samples
from tests.conftest import tiny_model

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])
RUN = ("bash", "console", "python")
SHOWN = ("text", "mermaid", "json", "toml", "yaml")
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
REASON = re.compile(r"<!-- not run: (.+?) -->\n+\s*\Z")

# What a page says, and what its test runs in its place: budgets of minutes and an address that others may use.
SMALLER = (
    (r"--minutes [\d.]+", "--steps 2 --batch-size 8 --image-size 32"),
    (r"\bminutes=[\d.]+", "steps=2, batch_size=8, image_size=32"),
    (r"(?m)^sslfeat serve (.*?)(\s+#.*)?$", r"serve \1 --port {port}"),
    (r"http://127\.0\.0\.1:8000", "http://127.0.0.1:{port}"),
)
# serve in the background, and go on when it answers
SERVE = """serve() {
    python -m sslfeat serve "$@" >> serve.log 2>&1 & echo $! >> serve.pids
    for _ in $(seq 600); do python - << END && return || sleep 0.1
import urllib.request; urllib.request.urlopen("http://127.0.0.1:{port}/ready")
END
    done 2> /dev/null; cat serve.log; return 1
}
"""


@dataclass(frozen=True)
class Block:
    """A fenced block, the line it begins at, and why it is not run, if the comment in front of it says so."""

    page: Path
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        indent, before = len(match["indent"]), text[: match.start()]
        code = "".join(line[indent:] if line.strip() else line for line in match["text"].splitlines(keepends=True))
        reason = REASON.search(before)
        found.append(Block(page, before.count("\n") + 1, match["language"], code, reason[1] if reason else None))
    return found


def lay_out(folder: Path) -> None:
    """What the pages take for granted: the images, tables and models that a reader has."""
    for name, count, seed in (("images", 48, 0), ("new-images", 8, 1), ("more-images", 8, 2), ("labeled", 24, 3)):
        draw_samples(folder / name, count, seed)
        for path in (folder / name).rglob("*.jpg"):
            _shrink(path)
    draw_samples(folder / "photos", 520, 4)  # more than an encoder has units
    for path in (folder / "photos").rglob("*.jpg"):
        _shrink(path, 32)
    for name in ("train", "test", "classes"):
        shutil.copytree(folder / "labeled", folder / name)
    first = folder / "images" / "circles" / "circles-0000.jpg"
    Image.open(first).save(first.with_name("circles-0000 (1).jpg"), quality=70)
    for name in ("query.jpg", "cat.jpg", "dog.jpg", "a.jpg", "b.png"):
        Image.open(first).save(folder / name)
    rows = [f"{path.name},{path.parent.name}" for path in sorted((folder / "images").rglob("*.jpg"))]
    (folder / "labels.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    (folder / "theirs.onnx").write_bytes(tiny_model().SerializeToString())


def _check(block: Block, shown: list[str], printed: list[str]) -> None:
    """The lines that a console block shows were printed, in that order; ``...`` stands for anything."""
    rest = iter(printed)
    for line in filter(None, shown):
        pattern = re.compile(".*".join(map(re.escape, line.split("..."))))
        assert any(pattern.fullmatch(candidate.rstrip()) for candidate in rest), f"{block.place}: {line!r} is not in {printed}"


def _shrink(path: Path, side: int = 96) -> None:
    image = Image.open(path)
    image.thumbnail((side, side))
    image.save(path, quality=90)


class Reader:
    """Somebody who runs a page's blocks from top to bottom in ``folder``, with the commands in ``commands``."""

    def __init__(self, folder: Path, commands: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])
        path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def run(self, block: Block) -> None:
        """Raises AssertionError, with the block's place and what was printed, if it fails."""
        if block.language == "python":
            self._python(block)
            return
        lines = block.text.splitlines(keepends=True)
        typed = [line.removeprefix("$ ") for line in lines if block.language == "bash" or line.startswith("$ ")]
        done = self._bash(self.smaller("".join(typed)))
        assert done.returncode == 0, f"{block.place}: exit code {done.returncode}\n{done.stdout[-4000:]}"
        if block.language == "console":
            _check(block, [line.rstrip() for line in lines if not line.startswith("$ ")], done.stdout.splitlines())

    def smaller(self, text: str) -> str:
        """The block as its test runs it."""
        for pattern, instead in SMALLER:
            text = re.sub(pattern, instead.replace("{port}", self.port), text)
        return text

    def close(self) -> None:
        """End the services that the page started."""
        started = self.folder / "serve.pids"
        for pid in started.read_text().split() if started.exists() else []:
            os.kill(int(pid), signal.SIGKILL)

    def _bash(self, commands: str) -> subprocess.CompletedProcess[str]:
        script = "set -euo pipefail\n" + SERVE.replace("{port}", self.port) + commands
        return subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600,
        )  # fmt: skip

    def _python(self, block: Block) -> None:
        code = compile(self.smaller(block.text), block.place, "exec")
        try:
            with contextlib.chdir(self.folder), warnings.catch_warnings(action="ignore"):
                exec(code, self.names)
        except Exception as error:
            raise AssertionError(f"{block.place}: {''.join(traceback.format_exception(error)[-3:])}") from error
