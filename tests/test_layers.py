"""The layers: every import goes left, lazy ones included; no circles; one public class a name; packages say what they hold."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = (
    "errors",
    "system",
    "numerics",
    "storage",
    "data",
    "inference",
    "features",
    "engines",
    "retrieval",
    "stores",
    "dedup",
    "reports",
    "serving",
)
EVALUATION = (*LAYERS[: LAYERS.index("retrieval")], "evaluation")
MAY_IMPORT = {
    **{layer: (*LAYERS[: LAYERS.index(layer)], layer) for layer in LAYERS},
    "evaluation": EVALUATION,
    "dedup": (*LAYERS[: LAYERS.index("dedup") + 1], "evaluation"),
    "reports": (*LAYERS[:-1], "evaluation"),
    "serving": (*LAYERS, "evaluation"),
    "models": (*EVALUATION, "models"),
    "export": (*EVALUATION, "models", "reports", "export"),
    "api": (*LAYERS, "evaluation", "models", "export", "api"),
    "cli": (*LAYERS, "evaluation", "models", "export", "cli"),
}
FILES = {  # dotted name -> file, each once: the links inside the package are left out
    "sslfeat"
    + "".join(f".{part}" for part in (path.relative_to(ROOT).with_suffix("").parts) if part not in ("sslfeat", "__init__")): path
    for room in ("sslfeat", "cli", "export", "models")
    for path in sorted((ROOT / room).rglob("*.py"))
    if room != "sslfeat" or path.relative_to(ROOT).parts[1] not in ("cli", "export", "models")
}
ROOT_FILES = ("sslfeat", "sslfeat.__main__")  # the public face, and the command line's front door


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            yield from {full if (full := f"{module}.{alias.name}") in FILES else module for alias in node.names}


GRAPH = {name: {found for found in imported(path) if found in FILES} - {name} for name, path in FILES.items()}


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_imports_go_left(layer: str) -> None:
    mine = {name: found for name, found in GRAPH.items() if name.split(".")[1:2] == [layer]}
    assert mine
    for name, found in mine.items():
        for other in found - {"sslfeat"}:
            assert other.split(".")[1] in MAY_IMPORT[layer], f"{name} imports {other}"


def test_the_runtime_knows_no_torch() -> None:
    for name, path in FILES.items():
        if name.split(".")[1:2] not in (["models"], ["export"], ["cli"]):
            found = {imported_name.split(".")[0] for imported_name in imported(path)}
            assert not found & {"torch", "torchvision", "lightning_fabric"}, name


def test_there_is_no_circle() -> None:
    list(TopologicalSorter({name: GRAPH[name] - {"sslfeat"} for name in GRAPH if name not in ROOT_FILES}).static_order())


def test_a_name_is_one_class() -> None:
    classes = Counter(
        node.name
        for path in FILES.values()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in classes.items() if count > 1] == []


def test_every_package_says_what_it_holds() -> None:
    for name, path in FILES.items():
        if path.name == "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text())), name
