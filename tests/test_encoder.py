"""An Encoder where programs put it: pickled, copied, forked, in threads; what it takes; the provider that runs it."""

from __future__ import annotations

import copy
import io
import json
import logging
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from PIL import Image

from sslfeat import Encoder, encoder, sessions
from sslfeat.encoder_file import read_encoder_file
from sslfeat.errors import EncoderFileError, ImageError, InputError, ProviderError, UsageError
from sslfeat.sessions import OnnxSession
from tests.conftest import TINY_SIZE, write_tiny

loads = pickle.loads
Rows = npt.NDArray[np.float32]


def rows(loaded: Encoder, pictures: Path) -> Rows:
    return np.stack(list(loaded.embed(sorted(pictures.rglob("*.jpg"))[:6])))


@pytest.mark.parametrize("threads", [1, 2])
def test_pickled_and_copied_encoders_give_equal_features(threads: int, tiny: Path, pictures: Path) -> None:
    loaded = Encoder.load(tiny, "cpu", threads)
    wanted = rows(loaded, pictures)
    data = pickle.dumps(loaded)
    assert len(data) < 2000  # the path, not the weights
    for other in (loads(data), copy.copy(loaded), copy.deepcopy(loaded)):
        np.testing.assert_array_equal(rows(other, pictures), wanted)
        assert (other.fingerprint, other.provider, other.threads) == (loaded.fingerprint, "cpu", threads)


def test_a_pickle_goes_on_from_another_working_folder(
    tiny: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.parent)
    loaded = Encoder.load(tiny.name, "cpu")
    data = pickle.dumps(loaded)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(rows(loads(data), pictures), rows(loaded, pictures))


def test_a_pickle_whose_file_became_another_is_refused(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "one.onnx")
    data = pickle.dumps(Encoder.load(path, "cpu"))
    write_tiny(path, seed=1)
    with pytest.raises(EncoderFileError, match=r"encoder 'one' .* is needed: .*one\.onnx is another one"):
        loads(data)
    path.unlink()
    with pytest.raises(EncoderFileError, match="encoder 'one'"):
        loads(data)


def test_an_encoder_of_bytes_takes_them_along(tiny: Path, pictures: Path) -> None:
    from sslfeat.encoder_file import check_encoder

    loaded = Encoder(check_encoder(tiny.read_bytes()), "cpu")
    np.testing.assert_array_equal(rows(loads(pickle.dumps(loaded)), pictures), rows(loaded, pictures))


def test_another_precision_travels_too(tiny: Path, pictures: Path, tmp_path: Path) -> None:
    """Here the session is simply another encoder's: its features tell which one runs."""
    other = write_tiny(tmp_path / "other.onnx", seed=1).read_bytes()
    record = {"asked": "int8", "ran": "int8"}
    lower = Encoder.load(tiny, "cpu").in_precision(record, OnnxSession(other, "cpu", 1), {"encoder-int8.onnx": other})
    restored = loads(pickle.dumps(lower))
    assert (restored.precision, restored.files) == (record, {"encoder-int8.onnx": other})
    np.testing.assert_array_equal(rows(restored, pictures), rows(lower, pictures))
    assert not np.array_equal(rows(lower, pictures), rows(Encoder.load(tiny, "cpu"), pictures))


def test_in_another_precision_the_first_encoder_stays_as_it_is(tiny: Path) -> None:
    first = Encoder.load(tiny, "cpu")
    second = first.in_precision({"asked": "auto", "ran": "fp32"})
    assert first.precision == {"asked": "fp32", "ran": "fp32"}
    assert second.precision == {"asked": "auto", "ran": "fp32"}


def in_child(context: str, work: Callable[..., Any], *arguments: Any, daemon: bool = False) -> Any:
    made = multiprocessing.get_context(context)
    answers: Any = made.Queue()
    process = made.Process(target=_answer, args=(answers, work, *arguments), daemon=daemon)  # type: ignore[attr-defined]
    process.start()
    try:
        answer = answers.get(timeout=60)
    finally:
        process.kill()
        process.join()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _answer(answers: Any, work: Callable[..., Any], *arguments: Any) -> None:
    try:
        answers.put(work(*arguments))
    except Exception as error:
        answers.put(error)


@pytest.mark.skipif(os.name == "nt", reason="fork")
@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("threads", [1, 2])
def test_child_processes_use_the_parents_encoder(context: str, threads: int, tiny: Path, pictures: Path) -> None:
    loaded = Encoder.load(tiny, "cpu", threads)
    wanted = rows(loaded, pictures)
    np.testing.assert_array_equal(in_child(context, rows, loaded, pictures, daemon=True), wanted)
    np.testing.assert_array_equal(rows(loaded, pictures), wanted)


@pytest.mark.skipif(os.name == "nt", reason="fork")
def test_after_a_fork_a_file_that_changed_is_not_loaded_again(tmp_path: Path, pictures: Path) -> None:
    path = write_tiny(tmp_path / "one.onnx")
    loaded = Encoder.load(path, "cpu", threads=2)
    wanted = rows(loaded, pictures)
    write_tiny(path, seed=1)
    np.testing.assert_array_equal(rows(loaded, pictures), wanted)
    with pytest.raises(EncoderFileError, match="was changed since it was loaded"):
        in_child("fork", rows, loaded, pictures)


@pytest.mark.skipif(os.name == "nt", reason="fork")
def test_openvino_and_gpus_say_that_they_do_not_survive_a_fork(tiny: Path, pictures: Path) -> None:
    loaded = Encoder.load(tiny, "cpu")
    loaded._session._recipe = (str(tiny), "cuda", 1, "ONNX")  # type: ignore[attr-defined]
    with pytest.raises(ProviderError, match="does not survive a fork: start processes with 'spawn'"):
        in_child("fork", rows, loaded, pictures)
    pytest.importorskip("openvino")
    session = sessions.OpenVinoSession(tiny.read_bytes(), "fp32", 1)
    with pytest.raises(ProviderError, match="OpenVINO does not survive a fork"):
        in_child("fork", session.run, np.zeros((1, TINY_SIZE, TINY_SIZE, 3), np.uint8))
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(Encoder.load(tiny, "cpu").in_precision({}, session))


def test_threads_share_an_encoder(tiny: Path, pictures: Path) -> None:
    loaded = Encoder.load(tiny, "cpu")
    wanted = rows(loaded, pictures)
    found: list[Rows] = []
    threads = [threading.Thread(target=lambda: found.append(rows(loaded, pictures))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for each in found:
        np.testing.assert_array_equal(each, wanted)


def test_every_way_to_give_a_picture(tiny: Path, pictures: Path) -> None:
    loaded = Encoder.load(tiny, "cpu")
    path = min(pictures.rglob("*.jpg"))
    with Image.open(path) as opened:
        array = np.asarray(opened.convert("RGB"))
        wanted = next(loaded.embed(path))
        ways: list[Any] = [path, str(path), os.fsencode(path), opened.copy(), array, array[None]]
        for way in (*ways, [path], (path,), iter([path]), {path: 1}):
            (found,) = loaded.embed(way)
            np.testing.assert_array_equal(found, wanted)
    assert list(loaded.embed([])) == []


class Tensor:
    """Stands for torch's."""

    __module__ = "torch"


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (None, "a NoneType was given: pictures are paths"),
        (5, "a int was given"),
        ([None], "a NoneType was given"),
        ([3.5], "a float was given"),
        ([("a.jpg", 1)], "a tuple was given"),
        ([Tensor()], "a torch.Tensor was given: .* uint8 arrays"),
        ([io.BytesIO(b"x")], "a _io.BytesIO was given: .*, or PIL.Image.open of it"),
        ([b"\x89PNG\0\0"], r"bytes that are no path .* PIL.Image.open\(io.BytesIO"),
        (b"x" * 5000, "bytes that are no path"),
    ],
)
def test_what_is_no_picture_is_refused(images: Any, said: str, tiny: Path) -> None:
    with pytest.raises(InputError, match=said):
        list(Encoder.load(tiny, "cpu").embed(images))


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((5, 5, 3)), "an array of float64 was given"),
        (np.zeros((2, 5, 5, 3), np.float32), "an array of float32 was given"),
        (np.zeros((5, 5, 5), np.uint8), r"an array of shape \(5, 5, 5\)"),
        (np.zeros((0, 5, 3), np.uint8), r"an array of shape \(0, 5, 3\)"),
        (np.zeros(5, np.uint8), r"an array of shape \(5,\)"),
    ],
)
def test_arrays_that_are_no_pictures(array: Any, said: str, tiny: Path) -> None:
    with pytest.raises(ImageError, match=said):
        list(Encoder.load(tiny, "cpu").embed(array))


@pytest.mark.parametrize(
    ("load", "embed", "said"),
    [
        ({"threads": 0}, {}, "threads is 0"),
        ({"threads": 10**6}, {}, "threads is 1000000"),
        ({"provider": "tpu"}, {}, "provider 'tpu' is unknown: auto, cpu, cuda"),
        ({}, {"batch_size": 0}, "batch_size is 0"),
        ({}, {"workers": 0}, "workers is 0"),
        ({}, {"workers": -1}, "workers is -1"),
    ],
)
def test_values_that_cannot_be(load: dict[str, Any], embed: dict[str, Any], said: str, tiny: Path) -> None:
    with pytest.raises(UsageError, match=said):
        list(Encoder.load(tiny, **{"provider": "cpu", **load}).embed([], **embed))


def test_a_file_of_any_name_is_read_as_onnx(tmp_path: Path, pictures: Path) -> None:
    """onnxruntime by itself takes ``.ort`` for a format of its own, which nobody checked."""
    named = write_tiny(tmp_path / "encoder.ort")
    assert rows(Encoder.load(named, "cpu"), pictures).shape == (6, 8)


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
        (False, "", "this onnxruntime has none"),
        (True, "fell back", "provider cuda cannot run here"),
        (True, "raised", "CUDA failure 35: driver version is insufficient"),
        (True, "fails to run", "no kernel image is available"),
    ],
)
def test_auto_falls_back_to_the_cpu_and_says_so(
    available: bool, reached: str, said: str, tiny: Path, pictures: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    wanted = rows(Encoder.load(tiny, "cpu"), pictures)
    FakeGpu(monkeypatch, available, reached)
    with caplog.at_level(logging.WARNING):
        loaded = Encoder.load(tiny)
    assert loaded.provider == "cpu"
    np.testing.assert_array_equal(rows(loaded, pictures), wanted)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("provider auto: the GPU is left idle, the CPU works: ")
    assert said in caplog.messages[0]
    with pytest.raises((ProviderError, EncoderFileError), match=said):
        rows(Encoder.load(tiny, "cuda"), pictures)
    assert capsys.readouterr().out == ""


def test_auto_takes_the_gpu_where_it_works(
    tiny: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    FakeGpu(monkeypatch, True, "works")
    loaded = Encoder.load(tiny)
    assert loaded.provider == "cuda"
    assert rows(loaded, pictures).shape == (6, 8)
    assert caplog.messages == []


def test_a_damaged_file_is_not_blamed_on_the_gpu(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu(monkeypatch, True, "fell back")
    model = read_encoder_file(tiny).data.replace(b"strides", b"stripes")
    from sslfeat.encoder_file import check_encoder

    with pytest.raises(EncoderFileError, match=r"onnxruntime cannot load the encoder: .*stripes"):
        Encoder(check_encoder(model))


def test_embed_records_the_provider_that_ran(
    tiny: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sslfeat.embed import embed_to_folder
    from sslfeat.inputs import find_inputs

    FakeGpu(monkeypatch, True, "fell back")
    embed_to_folder(Encoder.load(tiny), find_inputs([str(pictures)]), tmp_path / "out")
    (run,) = tmp_path.rglob("run.json")
    assert json.loads(run.read_text())["provider"] == "cpu"
