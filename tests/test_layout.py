"""The layout: packages complete, links real, a light command line, short files (imports: ``test_layers.py``)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("cli", "export", "models")


def modules(room: str) -> list[Path]:
    return [path for path in sorted((ROOT / room).rglob("*.py")) if path.relative_to(ROOT / room).parts[0] not in ROOMS]


def test_the_packages_list_names_every_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    inner = (path.parent for path in modules("sslfeat") if path.name == "__init__.py")
    found = {".".join(folder.relative_to(ROOT).parts) for folder in inner}
    for room in ROOMS:
        found |= {f"sslfeat.{'.'.join(p.parent.relative_to(ROOT).parts)}" for p in (ROOT / room).rglob("__init__.py")}
    assert set(settings["packages"]) == found
    assert settings["package-dir"] == {f"sslfeat.{room}": room for room in ROOMS}


@pytest.mark.parametrize("room", ROOMS)
def test_the_rooms_are_links_inside_the_package(room: str) -> None:
    link = ROOT / "sslfeat" / room
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{room}"


@pytest.mark.parametrize(
    "code",
    [
        "import sslfeat",
        "import sslfeat.cli.app",
        "import sslfeat, sslfeat.features.writer, sslfeat.evaluation.probing.run; sslfeat.Encoder",
        "from sslfeat.models import __path__",
    ],
)
def test_torch_is_not_loaded(code: str) -> None:
    check = f"{code}; import sys; bad = {{'torch', 'torchvision'}} & set(sys.modules); assert not bad, bad"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_the_command_line_loads_nothing_heavy() -> None:
    heavy = {"numpy", "onnx", "onnxruntime", "pyarrow", "faiss", "PIL", "sklearn", "rich"}
    check = f"import sslfeat.cli.app, sys; bad = {heavy} & set(sys.modules); assert not bad, bad"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_the_public_names_exist() -> None:
    import sslfeat

    assert sslfeat.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name in sslfeat.__all__:
        assert getattr(sslfeat, name) is not None
    with pytest.raises(AttributeError):
        sslfeat.nothing_of_this_name  # noqa: B018


def test_files_and_functions_stay_short() -> None:
    for room in ("sslfeat", *ROOMS):
        for path in modules(room):
            text = path.read_text()
            assert text.count("\n") <= 300, path
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef):
                    assert (node.end_lineno or 0) - node.lineno < 65, f"{path}: {node.name}"


@pytest.mark.parametrize("file", sorted((ROOT / "sslfeat").rglob("*.js")), ids=lambda file: file.name)
def test_scripts_stay_short(file: Path) -> None:
    lines = file.read_text().splitlines()
    assert len(lines) <= 300
    assert max(map(len, lines)) <= 130
    opened = 0
    for number, line in enumerate(lines):  # functions and methods begin at the margin, or at a class's
        if re.match(r"(  )?[^ /}].*\{$", line):
            opened = number
        elif re.match(r"(  )?\}", line):
            assert number - opened < 65, f"{file}: line {opened + 1}"
