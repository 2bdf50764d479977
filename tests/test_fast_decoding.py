"""``--decode fast``: recorded, refused without its package, and told apart from what it meant before."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sslfeat.data.dataset import find_inputs
from sslfeat.data.transforms import FAST, REDUCED, Decoding, Preprocess
from sslfeat.errors import FeaturesError, MissingExtraError, UsageError
from sslfeat.features.metadata import RUN_NAME, read_run
from sslfeat.features.reader import Features
from sslfeat.features.update import repair_folder
from sslfeat.features.writer import Options, embed_to_folder
from sslfeat.inference.encoder import Encoder
from sslfeat.inference.pipeline import ThreadDecoder
from sslfeat.storage.records import CHECK, signed_bytes
from tests.conftest import sslfeat

PART = "part-00000.parquet"


def embedded(tiny: Path, images: Path, out: Path, mode: str) -> None:
    options = Options(part_size=64, decoding=Decoding(mode))
    embed_to_folder(Encoder.load(tiny, "cpu"), find_inputs([images]), out, options)


def test_the_mode_and_the_resizer_are_on_record(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("cykooz_resizer")
    for mode in ("exact", FAST):
        embedded(tiny, image_folder, tmp_path / mode, mode)
    fast, exact = (read_run(tmp_path / mode) for mode in (FAST, "exact"))
    assert fast.decode.mode == FAST
    assert fast.versions["cykooz.resizer"][0].isdigit()
    assert "cykooz.resizer" not in exact.versions
    near, wanted = (Features.load(tmp_path / mode).embeddings for mode in (FAST, "exact"))
    assert 0 < np.abs(near - wanted).max() < 0.1 * np.abs(wanted).max()
    with pytest.raises(FeaturesError, match=r"decode\.mode = 'fast'"):
        embedded(tiny, image_folder, tmp_path / FAST, "exact")


def test_without_its_package_it_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, image_folder: Path, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "cykooz_resizer", None)
    with pytest.raises(MissingExtraError, match=r"cykooz\.resizer.*pip install"):
        ThreadDecoder(Preprocess(16, 16), Decoding(FAST))
    ThreadDecoder(Preprocess(16, 16), Decoding())
    with pytest.raises(UsageError, match="exact or fast"):
        Decoding("quick")
    refused = sslfeat("embed", image_folder, "--decode", "reduced", "--out", tmp_path / "f")
    assert refused.returncode == 2
    assert "'exact', 'fast'" in refused.stderr


def test_the_resizer_is_loaded_only_where_it_is_used() -> None:
    code = "import sslfeat.data.decode_worker, sslfeat.features.writer, sys; assert 'cykooz_resizer' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_features_of_before_are_read_and_repaired_as_they_were_made(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    """Then ``fast`` stood for JPEGs decoded at reduced size."""
    out = tmp_path / "features"
    embedded(tiny, image_folder, out, REDUCED)
    fields = json.loads((out / RUN_NAME).read_bytes())
    fields["decode"]["mode"] = FAST
    del fields[CHECK]
    (out / RUN_NAME).write_bytes(signed_bytes(fields))
    before = (out / PART).read_bytes()
    run = read_run(out)
    assert run.decode == dataclasses.replace(Decoding(), mode=REDUCED)
    (out / PART).write_bytes(before[:-1])
    repair_folder(Encoder.load(tiny, "cpu"), out)
    assert (out / PART).read_bytes() == before
