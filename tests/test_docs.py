"""Every fenced block of README and of the pages in docs/ is run, a page from top to bottom in a folder of its own."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import command_server
from tests.doc_pages import PAGES, ROOT, RUN, SHOWN, Block, Reader, blocks, lay_out

# What cannot be run in a test, by the reason that stands in front of the block. The list grows knowingly or not at all.
NOT_RUN: dict[str, int] = {
    "downloads weights": 6,
    "installs packages": 9,
    "needs Docker": 3,
    "needs a GPU": 2,
    "needs a model of your own": 1,
    "needs decisions in the browser": 1,
    "needs optional packages": 2,
    "starts TensorBoard": 1,
}
INDENTED = re.compile(r"\n\n    (?! *(?:[-*]|\d+\.) )")


def _runs(block: Block) -> bool:
    return block.language in RUN and block.reason is None


BLOCKS = {str(page.relative_to(ROOT)): blocks(page) for page in PAGES}


@pytest.fixture(scope="session")
def reader_has(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what every page takes for granted. Read only."""
    folder = tmp_path_factory.mktemp("reader")
    lay_out(folder)
    return folder


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with ``sslfeat``, which a server with everything imported runs."""
    folder = tmp_path_factory.mktemp("commands")
    path = folder / "socket"
    command_server.install_client(folder, path)
    server = subprocess.Popen([sys.executable, command_server.__file__, str(path)], start_new_session=True)
    while not path.exists():
        assert server.poll() is None, "the server of commands did not start"
        time.sleep(0.05)
    yield folder
    server.kill()
    server.wait()


@pytest.mark.parametrize("page", [name for name, found in BLOCKS.items() if any(_runs(block) for block in found)])
def test_every_block_runs(page: str, reader_has: Path, commands: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    shutil.copytree(reader_has, folder)
    reader = Reader(folder, commands)
    try:
        for block in filter(_runs, BLOCKS[page]):
            reader.run(block)
    finally:
        reader.close()


def test_what_is_not_run_is_counted() -> None:
    reasons = Counter(block.reason for found in BLOCKS.values() for block in found if block.language in RUN and block.reason)
    assert dict(reasons) == NOT_RUN


@pytest.mark.parametrize("page", BLOCKS)
def test_blocks_are_fenced_and_of_known_languages(page: str) -> None:
    for block in BLOCKS[page]:
        assert block.language in RUN + SHOWN, f"{block.place}: {block.language!r}"
    outside = re.sub(r"(?ms)^( *)```.*?^\1```$", "", (ROOT / page).read_text())
    assert "```" not in outside, "a fence that does not end"
    assert not INDENTED.search(outside), "a block without a fence, which no test runs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"(?ms)^( *)```.*?^\1```$", "", page.read_text())
    for target, _, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(#([^)\s]+))?\)", text):
        file = page.resolve() if not target else (page.parent / target)
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"(?m)^#+ (.+)$", file.read_text())
            assert anchor in {_anchor(heading) for heading in headings}, f"{page.name}: {target}#{anchor}"


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(str(page.relative_to(ROOT / "docs")) for page in PAGES if page.parent != ROOT)


@pytest.mark.parametrize("page", ["README.md", "docs/install.md"])
def test_the_line_without_a_gpu_installs_every_dependency(page: str) -> None:
    line = next(line for block in BLOCKS[page] for line in block.text.splitlines() if "--no-deps" in line)
    installed = {re.split(r"[>=]", name)[0] for name in shlex.split(line.split("&& pip install ")[1])}
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert installed == {re.split(r"[>=]", name)[0] for name in declared} - {"onnxruntime-gpu"}
