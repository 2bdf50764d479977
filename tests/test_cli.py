"""Manners of the command line: exit codes, one-line errors, help, the shipped encoders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sslfeat.cli.app import app
from sslfeat.cli.groups import GROUPS
from sslfeat.errors import EncoderFileError, ImageError, ProviderError, UsageError
from sslfeat.inference.encoder import Encoder
from sslfeat.inference.onnx_model import read_encoder_file
from sslfeat.inference.registry import DEFAULT, names, resolve
from tests.conftest import sslfeat

COMMANDS = (
    "train", "export", "adopt", "compare", "bench", "doctor", "embed", "index", "search", "dedupe", "probe", "predict",
    "cluster", "map", "score", "info", "report", "verify", "models", "methods", "samples", "serve",
)  # fmt: skip


def test_help_of_everything() -> None:
    listing = sslfeat("--help")
    assert listing.returncode == 0 and "..." not in listing.stdout.partition("Train:")[2]  # no summary is cut
    for command in COMMANDS:
        assert f"\n  {command} " in listing.stdout
        assert sslfeat(command, "-h").returncode == 0
    assert sslfeat("-h").stdout == listing.stdout


def test_every_command_is_in_one_group() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    known = [command.name or command.callback.__name__.rstrip("_") for command in app.registered_commands if command.callback]
    assert sorted(grouped) == sorted(known)


def test_version() -> None:
    from sslfeat import __version__

    assert sslfeat("--version").stdout.strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("embed", "no/such/folder"), 1, "no/such/folder does not exist"),
        (("embed", "."), 1, "no images found in ."),
        (("embed", "--batch-size", "many", "."), 2, "--batch-size"),
        (("frobnicate",), 2, "frobnicate"),
        (("embed", ".", "--no-such-option"), 2, "no-such-option"),
        (("info", "nothing.onnx"), 1, "neither a file nor a shipped encoder"),
        (("info", "."), 1, "neither a features folder"),
        (("verify", "."), 1, "neither a features folder"),
        (("train", "simclr"), 2, "METHOD and IMAGES are required"),
        (("train", "simclp", "images"), 1, "images does not exist"),
        (("export",), 2, "Usage"),
        (("probe", "."), 1, "not a features folder"),
    ],
)
def test_exit_codes_and_messages(tmp_path: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    finished = sslfeat(*arguments, cwd=tmp_path)
    assert finished.returncode == code, finished.stderr
    assert said in finished.stderr + finished.stdout
    assert "Traceback" not in finished.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    finished = sslfeat("--debug", "embed", "nowhere", cwd=tmp_path)
    assert finished.returncode == 1
    assert "Traceback" in finished.stderr


def test_a_list_on_standard_input(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    paths = sorted(map(str, image_folder.rglob("*.jpg")))[:5]
    listed = "\n".join([*paths, "missing.jpg"])
    finished = sslfeat("embed", "-", "--encoder", tiny, "--out", tmp_path / "f", "--json", text=listed)
    assert finished.returncode == 3, finished.stderr
    assert json.loads(finished.stdout)["embedded"] == 5
    assert "missing.jpg" in (tmp_path / "f" / "__sslfeat__/failures.csv").read_text()


def test_a_closed_standard_output_is_no_traceback(image_folder: Path) -> None:
    code = "from sslfeat.cli.app import main; main()"
    command = f"{sys.executable} -c '{code}' info {DEFAULT} | head -c 1 > /dev/null"
    finished = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in finished.stderr


def test_the_default_encoder_is_shipped_small_and_honest(image_folder: Path) -> None:
    assert DEFAULT in names()
    for name in names():
        file = read_encoder_file(resolve(name))
        assert file.card.name == name
        assert len(file.data) <= 10_000_000
        assert file.card.training_data.name != "not stated"
        assert file.card.parity.images >= 8
        assert file.card.parity.max_abs_diff <= 1e-4 * file.card.parity.scale
    listed = json.loads(sslfeat("models", "--json").stdout)
    assert [item["name"] for item in listed["encoders"]] == names()
    encoder = Encoder.load(DEFAULT, "cpu")
    originals, copies = [], []
    for path in sorted(image_folder.rglob("*.jpg")):
        with Image.open(path) as image:
            width, height = image.size
            originals.append(image.copy())
            part = image.crop((width // 8, height // 8, width - width // 8, height - height // 8))
            copies.append(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    units = [
        rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for rows in (np.stack(list(encoder.embed(part))) for part in (originals, copies))
    ]
    found = (units[1] @ units[0].T).argmax(1) == np.arange(len(originals))
    assert found.mean() >= 0.5  # a mirrored part of an image finds its image among 40; chance is 1/40


def test_encoder_api(tiny: Path, image_folder: Path) -> None:
    encoder = Encoder.load(tiny)
    assert encoder.provider in ("cpu", "cuda")
    assert len(encoder.fingerprint) == 64
    path = next(image_folder.rglob("*.jpg"))
    with Image.open(path) as image:
        rows = list(encoder.embed([path, str(path), np.asarray(image), image]))
        (single,) = encoder.embed(image)
    assert all(row.shape == (encoder.dim,) and row.dtype == np.float32 for row in rows)
    for row in (*rows, single):
        np.testing.assert_allclose(row, rows[0], atol=1e-6)
    batch = np.zeros((5, 20, 30, 3), np.uint8)
    assert len(list(encoder.embed(batch, batch_size=2))) == 5
    with pytest.raises(ImageError, match=r"missing\.jpg"):
        list(encoder.embed([path, "missing.jpg"]))
    assert list(encoder.embed([])) == []


def test_providers_are_honoured_or_refused(tiny: Path) -> None:
    with pytest.raises(UsageError, match="unknown"):
        Encoder.load(tiny, "npu")
    with pytest.raises(EncoderFileError, match="neither a file nor a shipped encoder"):
        Encoder.load("resnet-of-my-dreams")
    try:
        assert Encoder.load(tiny, "cuda").provider == "cuda"
    except ProviderError as error:
        assert "cuda" in str(error)


@pytest.mark.parametrize(
    ("name", "said"),
    [("my run/config.yaml", "sslfeat export 'my run' --out 'my run.onnx', then sslfeat embed"), ("e.onnx", "--encoder e.onnx")],
)
def test_a_run_or_an_encoder_in_place_of_features_is_told_the_way(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    done = sslfeat("probe", name.partition("/")[0])
    assert (done.returncode, said in done.stderr) == (1, True), done.stderr
