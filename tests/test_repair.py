"""Damaged features folders, features of another encoder or version, and the commands that repair and update them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sslfeat.data.dataset import find_inputs
from sslfeat.errors import FeaturesError
from sslfeat.features.metadata import read_run
from sslfeat.features.update import load_encoder, repair_folder, update_folder
from sslfeat.features.verify import verify
from sslfeat.features.writer import embed_to_folder
from sslfeat.inference.encoder import Encoder
from tests.conftest import contents, sslfeat, write_tiny
from tests.counted import Counting, begin, change, images, load, options

__all__ = ["images"]


def test_an_encoder_that_changed_is_refused_naming_both(tiny: Path, images: Path, tmp_path: Path) -> None:
    begin(tiny, images, tmp_path / "f")
    other = Encoder.load(write_tiny(tmp_path / "other.onnx", seed=1), "cpu")
    with pytest.raises(FeaturesError, match=r"'tiny' \(\w{12}\), not 'other' \(\w{12}\)"):
        update_folder(other, find_inputs([images]), tmp_path / "f", options())
    with pytest.raises(FeaturesError, match=r"'tiny'.*a different encoder"):
        load_encoder(tmp_path / "f", str(tmp_path / "other.onnx"))
    with pytest.raises(FeaturesError, match=r"neither shipped nor in the cache.*--encoder"):
        load_encoder(tmp_path / "f", None)


@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_any_flipped_bit_is_found_and_repair_makes_only_that_part_again(
    layout: str, tiny: Path, images: Path, tmp_path: Path
) -> None:
    begin(tiny, images, tmp_path / "f", layout)
    whole = contents(tmp_path / "f")
    rng = np.random.default_rng(0)
    files = [path for path in sorted((tmp_path / "f").rglob("*")) if path.is_file() and path.name != ".lock"]
    for path in files:
        data = bytearray(path.read_bytes())
        for _ in range(10):
            where, bit = int(rng.integers(len(data))), 1 << int(rng.integers(8))
            data[where] ^= bit
            path.write_bytes(data)
            try:
                assert list(verify(tmp_path / "f")), f"{path.name}: bit {bit} of byte {where} went unnoticed"
            except FeaturesError:
                assert path.name == "features.json"
            data[where] ^= bit
        path.write_bytes(data)
    assert contents(tmp_path / "f") == whole
    target = next(path for path in files if "00002" in path.name or "0002." in path.name)
    target.write_bytes(b"gone")
    summary = repair_folder(load(tiny), tmp_path / "f")
    assert Counting.shown == 7
    assert summary.resumed == 41 - 7
    assert contents(tmp_path / "f") == whole


def test_what_cannot_be_repaired_says_so(tiny: Path, images: Path, tmp_path: Path) -> None:
    begin(tiny, images, tmp_path / "f")
    (tmp_path / "f" / "__sslfeat__/inputs.arrow").write_bytes(b"ARROW1")
    with pytest.raises(FeaturesError, match=r"inputs.arrow is damaged"):
        repair_folder(load(tiny), tmp_path / "f")
    run = json.loads((tmp_path / "f" / "__sslfeat__/features.json").read_bytes())
    (tmp_path / "f" / "__sslfeat__/features.json").write_text(json.dumps({**run, "batch_size": 4}))
    with pytest.raises(FeaturesError, match="altered"):
        read_run(tmp_path / "f")


def test_repair_and_update_by_command(tiny: Path, images: Path, tmp_path: Path) -> None:
    arguments: list[str | Path] = ["embed", images, "--encoder", tiny, "--out", tmp_path / "f", "--part-size", "10"]
    assert sslfeat(*arguments).returncode == 3
    (tmp_path / "f" / "part-00001.parquet").unlink()
    assert sslfeat("verify", tmp_path / "f").returncode == 1
    mended = sslfeat("repair", tmp_path / "f", "--encoder", tiny, "--json")
    assert json.loads(mended.stdout)["resumed"] == 31
    change(images)
    refused = sslfeat(*arguments)
    assert refused.returncode == 1
    assert "2 new, 3 removed, 1 modified" in refused.stderr
    updated = sslfeat(*arguments, "--update")
    assert updated.returncode == 3
    assert "since the last run: 2 new" in updated.stderr
    assert sslfeat("verify", tmp_path / "f", "--sources").returncode == 0


def test_another_version_says_what_to_do(tiny: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, inputs = Encoder.load(tiny, "cpu", 1), find_inputs([image_folder])[:2]
    embed_to_folder(encoder, inputs, tmp_path / "f")
    monkeypatch.setattr("onnxruntime.__version__", "0.1")
    with pytest.raises(FeaturesError, match=r"versions\.onnxruntime.*not '0\.1': pip install onnxruntime\S*==.* --overwrite"):
        embed_to_folder(encoder, inputs, tmp_path / "f")
    monkeypatch.setattr("sslfeat.inference.diagnostics.installed_version", lambda name: "1")
    with pytest.raises(FeaturesError, match=r"installed over one another, which may be the cause \(pip uninstall -y "):
        embed_to_folder(encoder, inputs, tmp_path / "f")
