"""``info`` and ``verify`` on everything that there is to look at, whole and damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import sslfeat, tiny_card


@pytest.fixture(scope="module")
def index(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspected") / "index"
    done = sslfeat("index", embedded, "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_info_and_verify_of_an_encoder_file(tiny: Path, tmp_path: Path) -> None:
    told = json.loads(sslfeat("info", tiny, "--json").stdout)["about"]
    assert (told["name"], told["dim"]) == ("tiny", tiny_card().dim)
    assert len(told["fingerprint"]) == 64
    assert sslfeat("verify", tiny).stdout == f"{tiny}: a valid encoder file\n"
    assert sslfeat("verify", "sslfeat-tiny").stdout == "sslfeat-tiny: a valid encoder file\n"
    (tmp_path / "cut.onnx").write_bytes(tiny.read_bytes()[:-100])
    for command in ("info", "verify"):
        refused = sslfeat(command, tmp_path / "cut.onnx")
        assert (refused.returncode, "cut.onnx" in refused.stderr, "Traceback" in refused.stderr) == (1, True, False)
    told = json.loads(sslfeat("verify", tmp_path / "cut.onnx", "--json").stdout)
    assert (told["whole"], len(told["faults"])) == (False, 1)


def test_info_and_verify_of_features(embedded: Path, tmp_path: Path) -> None:
    told = json.loads(sslfeat("info", embedded, "--json").stdout)["about"]
    assert (told["parts"], told["rows"], told["failures"], told["layout"]) == ("1/1", 40, 0, "parquet")
    folder = Path(shutil.copytree(embedded, tmp_path / "f"))
    assert sslfeat("verify", folder).returncode == 0
    (folder / "part-00000.parquet").write_bytes(b"x")
    assert json.loads(sslfeat("info", folder, "--json").stdout)["about"]["parts"] == "0/1"
    found = sslfeat("verify", folder)
    assert (found.returncode, "part-00000.parquet" in found.stderr) == (1, True)


def test_info_and_verify_of_an_index(index: Path, tmp_path: Path) -> None:
    assert json.loads(sslfeat("info", index, "--json").stdout)["about"]["dim"] == tiny_card().dim
    assert sslfeat("verify", index).returncode == 0
    folder = Path(shutil.copytree(index, tmp_path / "i"))
    files = sorted(json.loads((folder / "index.json").read_text())["files"])
    for name in files:
        (folder / name).write_bytes(b"x")
    found = sslfeat("verify", folder)
    assert (found.returncode, len(files) > 1) == (1, True)
    assert [name for name in files if name in found.stderr] == files


@pytest.mark.parametrize("name", ["empty", "config", "missing"])
def test_what_is_none_of_these_is_named(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    if name != "missing":
        folder.mkdir()
    if name == "config":
        (folder / "config.yaml").write_text("- a list")
    for command in ("info", "verify"):
        refused = sslfeat(command, folder)
        assert (refused.returncode, "Traceback" in refused.stderr) == (1, False), refused.stderr
        assert name in refused.stderr


@pytest.mark.parametrize("data", [b"\xff\xfe\xfd", b"!!python/object:os.system x", b"[" * 50_000, b"{a: [", b""])
def test_a_damaged_config_is_an_error(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(data)
    refused = sslfeat("info", tmp_path)
    assert (refused.returncode, "Traceback" in refused.stderr) == (1, False), refused.stderr


def test_sources_are_asked_of_features_alone(tiny: Path, index: Path) -> None:
    for path in (tiny, index):
        assert sslfeat("verify", path, "--sources").returncode == 2
