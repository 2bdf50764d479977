"""The ten lines of ``docs/embed.md`` give the features that ``sslfeat embed`` gives, image by image of the corpus."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from sslfeat.data.dataset import find_inputs
from sslfeat.features.reader import Features
from sslfeat.features.writer import Options, embed_to_folder
from sslfeat.inference.encoder import Encoder
from tests.conftest import TINY_SIZE
from tests.corpus import corpus

DOCS = Path(__file__).resolve().parents[1] / "docs" / "embed.md"
LEFT_OUT = re.compile("20000|12-bit|white-is-0|I;16-transparency|EXIF-damaged")  # as the page says


@pytest.mark.filterwarnings("ignore")
def test_the_ten_lines_of_the_docs_give_the_same_features(tiny: Path, tmp_path: Path) -> None:
    code = re.search(r"```python\n(import io.*?)```", DOCS.read_text(), re.DOTALL)
    assert code is not None
    script: dict[str, Any] = {}
    exec(code[1], script)
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, drawn in enumerate(corpus()):
        (folder / f"{number:03d}-{re.sub('[^0-9A-Za-z;-]', '_', drawn.name)}.png").write_bytes(drawn.data)
    embed_to_folder(Encoder.load(tiny, "cpu"), find_inputs([folder]), tmp_path / "f", Options())
    features = Features.load(tmp_path / "f")
    session = onnxruntime.InferenceSession(tiny, providers=["CPUExecutionProvider"])
    compared = 0
    for path, row in zip(features.paths, features.embeddings, strict=True):
        if LEFT_OUT.search(path):
            continue
        np.testing.assert_allclose(row, script["embed"](session, path, TINY_SIZE, TINY_SIZE), atol=1e-5, err_msg=path)
        compared += 1
    assert compared >= 90, compared
    assert len(features.paths) == len(list(folder.iterdir()))
