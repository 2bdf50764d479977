"""The provider that runs an encoder: the GPU where it works, else the CPU with a warning that says why."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from sslfeat import Encoder
from sslfeat.errors import EncoderFileError, ProviderError
from sslfeat.inference import encoder
from sslfeat.inference.onnx_model import read_encoder_file
from tests.encoder_rows import rows


class FakeGpu:
    """A GPU that is seen; of what onnxruntime does with it, the test says how far it gets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, available: bool, reached: str) -> None:
        providers = ["CUDAExecutionProvider", "CPUExecutionProvider"] if available else ["CPUExecutionProvider"]
        monkeypatch.setattr(encoder, "gpu_count", lambda: 1)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
        real = onnxruntime.InferenceSession

        def session(model: Any, options: Any, providers: list[str], **more: Any) -> Any:
            if providers == ["CPUExecutionProvider"]:
                return real(model, options, providers=providers, **more)
            if reached == "raised":
                raise RuntimeError("CUDA failure 35: driver version is insufficient\nmore")
            made = real(model, options, providers=["CPUExecutionProvider"], **more)
            return made if reached == "fell back" else FakeCuda(made, reached == "works")

        monkeypatch.setattr(onnxruntime, "InferenceSession", session)
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcublas"), raising=False)


class FakeCuda:
    def __init__(self, real: Any, works: bool) -> None:
        self._real, self._works = real, works

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def run(self, *arguments: Any) -> Any:
        if not self._works:
            raise RuntimeError("no kernel image is available for execution on the device")
        return self._real.run(*arguments)


@pytest.mark.parametrize(
    ("available", "reached", "said"),
    [
        (False, "", "not included in the installed onnxruntime"),
        (True, "fell back", "provider cuda cannot run here"),
        (True, "raised", "CUDA failure 35: driver version is insufficient"),
        (True, "fails to run", "no kernel image is available"),
    ],
)
def test_auto_falls_back_to_the_cpu_and_says_so(
    available: bool, reached: str, said: str, tiny: Path, image_folder: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    wanted = rows(Encoder.load(tiny, "cpu"), image_folder)
    FakeGpu(monkeypatch, available, reached)
    with caplog.at_level(logging.WARNING):
        loaded = Encoder.load(tiny)
    assert loaded.provider == "cpu"
    np.testing.assert_array_equal(rows(loaded, image_folder), wanted)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("provider auto: using the CPU, because the GPU cannot be used: ")
    assert said in caplog.messages[0]
    with pytest.raises((ProviderError, EncoderFileError), match=said):
        rows(Encoder.load(tiny, "cuda"), image_folder)
    assert capsys.readouterr().out == ""


def test_auto_takes_the_gpu_where_it_works(
    tiny: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    FakeGpu(monkeypatch, True, "works")
    loaded = Encoder.load(tiny)
    assert loaded.provider == "cuda"
    assert rows(loaded, image_folder).shape == (6, 8)
    assert caplog.messages == []


def test_a_damaged_file_is_not_blamed_on_the_gpu(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu(monkeypatch, True, "fell back")
    model = read_encoder_file(tiny).data.replace(b"strides", b"stripes")
    from sslfeat.inference.onnx_model import check_encoder

    with pytest.raises(EncoderFileError, match=r"onnxruntime cannot load the encoder: .*stripes"):
        Encoder(check_encoder(model))


def test_embed_records_the_provider_that_ran(
    tiny: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sslfeat.data.dataset import find_inputs
    from sslfeat.features.writer import embed_to_folder

    FakeGpu(monkeypatch, True, "fell back")
    embed_to_folder(Encoder.load(tiny), find_inputs([str(image_folder)]), tmp_path / "out")
    (run,) = tmp_path.rglob("features.json")
    assert json.loads(run.read_text())["provider"] == "cpu"
