"""What commands print, to whom, and the lines that they tell people to type."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest

from sslfeat import errors
from sslfeat.cli.console import check_new, say_json
from sslfeat.errors import InputError, MissingExtraError, UsageError, install_line
from tests.conftest import sslfeat


def test_the_install_line_names_packages_that_any_index_has() -> None:
    line = str(MissingExtraError("probe", "scikit-learn"))
    wanted = [item.split(";")[0].strip() for item in requires("sslfeat") or () if item.endswith('extra == "probe"')]
    assert len(wanted) >= 3
    assert all(f"'{item}'" in line for item in wanted)
    assert "sslfeat[" not in line


def test_the_install_line_holds_what_only_some_platforms_need(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["a>=1; extra == 'x'", "b>=2; (sys_platform != 'win32') and extra == 'x'", 'c; extra == "y"', "d>=4"]
    monkeypatch.setattr("sslfeat.errors.requires", lambda name: lines)
    assert shlex.split(install_line("x")) == ["pip", "install", "a>=1", "b>=2; sys_platform != 'win32'"]


def test_the_install_line_of_a_checkout_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(errors, "requires", absent)
    assert install_line("probe") == "pip install -e '.[probe]' in a checkout of sslfeat"


def test_every_extra_that_is_named_in_the_code_exists() -> None:
    import re

    named = set()
    root = Path(__file__).parent.parent
    for room in ("sslfeat", "cli", "export", "models"):
        for path in (root / room).rglob("*.py"):
            named |= set(re.findall(r"""(?:MissingExtraError|install_line|needs)\(\s*"([a-z0-9_-]+)\"""", path.read_text()))
    assert len(named) >= 5
    assert [
        extra for extra in named if not install_line(extra).startswith("pip install ") or "checkout" in install_line(extra)
    ] == []


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_change_nothing(image_folder: Path, tiny: Path, tmp_path: Path, closed: str) -> None:
    main = f"{sys.executable} -m sslfeat"
    command = f"{main} embed '{image_folder}' --encoder '{tiny}' --out '{tmp_path / 'f'}' {closed}"
    assert subprocess.run(["bash", "-c", command], check=False).returncode == 0
    assert sslfeat("verify", tmp_path / "f").returncode == 0
    command = f"{main} verify '{tmp_path / 'nothing'}' {closed}"
    assert subprocess.run(["bash", "-c", command], check=False).returncode == 1


def test_names_do_not_reach_the_terminal_as_commands(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a\x1b[31mred\u202egnp.jpg").write_bytes(b"no image")
    (tmp_path / "p" / "b\x9b2J.jpg").write_bytes(b"no image")
    finished = sslfeat("embed", tmp_path / "p", "--encoder", tiny, "--out", tmp_path / "f")
    assert finished.returncode == 3
    found = sslfeat("info", tmp_path / "p" / "a\x1b[31mred\u202egnp.jpg")
    assert "\\x1b[31mred\\u202egnp.jpg" in found.stderr
    for text in (finished.stdout, finished.stderr, found.stdout, found.stderr):
        assert not set(text) & {"\x1b", "\u202e", "\x9b"}


@pytest.mark.parametrize(("error", "code"), [(UsageError("no"), 2), (InputError("no"), 1)])
def test_a_usage_error_exits_2(monkeypatch: pytest.MonkeyPatch, error: Exception, code: int) -> None:
    from sslfeat.cli import app

    def fail(**options: object) -> None:
        raise error

    monkeypatch.setattr(app, "app", fail)
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == code


def test_the_package_runs_as_a_module() -> None:
    finished = subprocess.run([sys.executable, "-m", "sslfeat", "--version"], capture_output=True, text=True, check=True)
    assert finished.stdout == sslfeat("--version").stdout


def test_files_are_replaced_only_when_asked(tmp_path: Path) -> None:
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    old.touch()
    check_new(False, new, None)
    check_new(True, old, new)
    with pytest.raises(UsageError, match=r"old\.csv exists.*--overwrite"):
        check_new(False, new, old)


def test_json_is_utf8_and_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"path": "sch\xf6n \x7f\x85\u202e\udcff"}
    say_json("search", facts)
    out = capsys.readouterr().out
    assert "sch\xf6n" in out
    assert json.loads(out)["path"] == facts["path"]
