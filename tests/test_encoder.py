"""Encoders that are pickled, copied, forked or shared by threads, and the kinds of images they accept."""

from __future__ import annotations

import copy
import io
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sslfeat import Encoder
from sslfeat.errors import EncoderFileError, ImageError, InputError, ProviderError, UsageError
from sslfeat.inference import backends
from sslfeat.inference.backends import OnnxRuntimeBackend
from tests.conftest import TINY_SIZE, write_tiny
from tests.encoder_rows import Rows, rows

loads = pickle.loads


@pytest.mark.parametrize("threads", [1, 2])
def test_pickled_and_copied_encoders_give_equal_features(threads: int, tiny: Path, image_folder: Path) -> None:
    loaded = Encoder.load(tiny, "cpu", threads)
    wanted = rows(loaded, image_folder)
    data = pickle.dumps(loaded)
    assert len(data) < 2000  # the path, not the weights
    for other in (loads(data), copy.copy(loaded), copy.deepcopy(loaded)):
        np.testing.assert_array_equal(rows(other, image_folder), wanted)
        assert (other.fingerprint, other.provider, other.threads) == (loaded.fingerprint, "cpu", threads)


def test_a_pickle_goes_on_from_another_working_folder(
    tiny: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.parent)
    loaded = Encoder.load(tiny.name, "cpu")
    data = pickle.dumps(loaded)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(rows(loads(data), image_folder), rows(loaded, image_folder))


def test_a_pickle_whose_file_became_another_is_refused(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "one.onnx")
    data = pickle.dumps(Encoder.load(path, "cpu"))
    write_tiny(path, seed=1)
    with pytest.raises(EncoderFileError, match=r"encoder 'one' .* is required: .*one\.onnx is a different encoder"):
        loads(data)
    path.unlink()
    with pytest.raises(EncoderFileError, match="encoder 'one'"):
        loads(data)


def test_an_encoder_of_bytes_takes_them_along(tiny: Path, image_folder: Path) -> None:
    from sslfeat.inference.onnx_model import check_encoder

    loaded = Encoder(check_encoder(tiny.read_bytes()), "cpu")
    np.testing.assert_array_equal(rows(loads(pickle.dumps(loaded)), image_folder), rows(loaded, image_folder))


def test_another_precision_travels_too(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    """Here the session is simply another encoder's: its features tell which one runs."""
    other = write_tiny(tmp_path / "other.onnx", seed=1).read_bytes()
    record = {"asked": "int8", "ran": "int8"}
    lower = Encoder.load(tiny, "cpu").in_precision(
        record, OnnxRuntimeBackend(other, "cpu", 1), {"__sslfeat__/encoder-int8.onnx": other}
    )
    restored = loads(pickle.dumps(lower))
    assert (restored.precision, restored.files) == (record, {"__sslfeat__/encoder-int8.onnx": other})
    np.testing.assert_array_equal(rows(restored, image_folder), rows(lower, image_folder))
    assert not np.array_equal(rows(lower, image_folder), rows(Encoder.load(tiny, "cpu"), image_folder))


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
def test_child_processes_use_the_parents_encoder(context: str, threads: int, tiny: Path, image_folder: Path) -> None:
    loaded = Encoder.load(tiny, "cpu", threads)
    wanted = rows(loaded, image_folder)
    np.testing.assert_array_equal(in_child(context, rows, loaded, image_folder, daemon=True), wanted)
    np.testing.assert_array_equal(rows(loaded, image_folder), wanted)


@pytest.mark.skipif(os.name == "nt", reason="fork")
def test_after_a_fork_a_file_that_changed_is_not_loaded_again(tmp_path: Path, image_folder: Path) -> None:
    path = write_tiny(tmp_path / "one.onnx")
    loaded = Encoder.load(path, "cpu", threads=2)
    wanted = rows(loaded, image_folder)
    write_tiny(path, seed=1)
    np.testing.assert_array_equal(rows(loaded, image_folder), wanted)
    with pytest.raises(EncoderFileError, match="has changed since it was loaded"):
        in_child("fork", rows, loaded, image_folder)


@pytest.mark.skipif(os.name == "nt", reason="fork")
def test_openvino_and_gpus_say_that_they_do_not_survive_a_fork(tiny: Path, image_folder: Path) -> None:
    loaded = Encoder.load(tiny, "cpu")
    loaded._session._recipe = (str(tiny), "cuda", 1, "ONNX")  # type: ignore[attr-defined]
    with pytest.raises(ProviderError, match="does not survive a fork: start processes with 'spawn'"):
        in_child("fork", rows, loaded, image_folder)
    pytest.importorskip("openvino")
    session = backends.OpenVinoBackend(tiny.read_bytes(), "fp32", 1)
    with pytest.raises(ProviderError, match="OpenVINO does not survive a fork"):
        in_child("fork", session.run, np.zeros((1, TINY_SIZE, TINY_SIZE, 3), np.uint8))
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(Encoder.load(tiny, "cpu").in_precision({}, session))


def test_threads_share_an_encoder(tiny: Path, image_folder: Path) -> None:
    loaded = Encoder.load(tiny, "cpu")
    wanted = rows(loaded, image_folder)
    found: list[Rows] = []
    threads = [threading.Thread(target=lambda: found.append(rows(loaded, image_folder))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for each in found:
        np.testing.assert_array_equal(each, wanted)


def test_every_way_to_give_an_image(tiny: Path, image_folder: Path) -> None:
    loaded = Encoder.load(tiny, "cpu")
    path = min(image_folder.rglob("*.jpg"))
    with Image.open(path) as opened:
        array = np.asarray(opened.convert("RGB"))
        wanted = next(loaded.embed(path))
        data = path.read_bytes()
        contents = [data, bytearray(data), memoryview(data)]
        ways: list[Any] = [path, str(path), *contents, opened.copy(), array, array[None]]
        for way in (*ways, [path], (path,), iter([path]), {path: 1}):
            (found,) = loaded.embed(way)
            np.testing.assert_array_equal(found, wanted)
    for each in (io.BytesIO(path.read_bytes()), path.open("rb")):
        with each as file:
            np.testing.assert_array_equal(next(loaded.embed([file])), wanted)
    assert list(loaded.embed([])) == []


def test_images_that_cannot_be_read_are_raised_skipped_or_returned(tiny: Path, image_folder: Path) -> None:
    loaded = Encoder.load(tiny, "cpu")
    path = min(image_folder.rglob("*.jpg"))
    images: list[Any] = [path, b"no image", "missing.jpg", path]
    wanted = next(loaded.embed(path))
    with pytest.raises(ImageError, match="an image in memory: "):
        list(loaded.embed(images))
    for row in (skipped := list(loaded.embed(images, on_error="skip"))):
        np.testing.assert_array_equal(row, wanted)
    assert len(skipped) == 2
    first, broken, missing, last = loaded.embed(images, on_error="return")
    assert isinstance(broken, ImageError)
    assert isinstance(missing, ImageError)
    assert str(missing) == "missing.jpg: cannot be opened: No such file or directory"
    np.testing.assert_array_equal(np.stack([first, last]), np.stack([wanted, wanted]))  # type: ignore[list-item]


class Tensor:
    """Stands for torch's."""

    __module__ = "torch"


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (None, "a NoneType was passed: images are paths"),
        (5, "a int was passed"),
        ([None], "a NoneType was passed"),
        ([3.5], "a float was passed"),
        ([("a.jpg", 1)], "a tuple was passed"),
        ([Tensor()], "a torch.Tensor was passed: .* uint8 arrays"),
        (io.StringIO("x"), "opened in text mode was passed: .* 'rb'"),
    ],
)
def test_what_is_no_image_is_refused(images: Any, said: str, tiny: Path) -> None:
    with pytest.raises(InputError, match=said):
        list(Encoder.load(tiny, "cpu").embed(images))


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((5, 5, 3)), "array of dtype float64"),
        (np.zeros((2, 5, 5, 3), np.float32), "array of dtype float32"),
        (np.zeros((5, 5, 5), np.uint8), r"array of shape \(5, 5, 5\)"),
        (np.zeros((0, 5, 3), np.uint8), r"array of shape \(0, 5, 3\)"),
        (np.zeros(5, np.uint8), r"array of shape \(5,\)"),
    ],
)
def test_arrays_that_are_no_images(array: Any, said: str, tiny: Path) -> None:
    with pytest.raises(ImageError, match=said):
        list(Encoder.load(tiny, "cpu").embed(array))


@pytest.mark.parametrize(
    ("load", "embed", "said"),
    [
        ({"threads": 0}, {}, "threads is 0"),
        ({"threads": 10**6}, {}, "threads is 1000000"),
        ({"provider": "tpu"}, {}, "unknown provider 'tpu': use auto, cpu, cuda"),
        ({}, {"batch_size": 0}, "batch_size is 0"),
        ({}, {"workers": 0}, "workers is 0"),
        ({}, {"workers": -1}, "workers is -1"),
    ],
)
def test_values_that_cannot_be(load: dict[str, Any], embed: dict[str, Any], said: str, tiny: Path) -> None:
    with pytest.raises(UsageError, match=said):
        list(Encoder.load(tiny, **{"provider": "cpu", **load}).embed([], **embed))


def test_a_file_of_any_name_is_read_as_onnx(tmp_path: Path, image_folder: Path) -> None:
    """onnxruntime by itself takes ``.ort`` for a format of its own, which nobody checked."""
    named = write_tiny(tmp_path / "encoder.ort")
    assert rows(Encoder.load(named, "cpu"), image_folder).shape == (6, 8)
