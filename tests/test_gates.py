"""The gates of an export: what they judge by, on which images, and that bounds decide."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sslfeat import Encoder
from sslfeat.data.dataset import find_inputs
from sslfeat.data.holdout import draw_panel
from sslfeat.data.sampling import decode_all
from sslfeat.data.transforms import Preprocess
from sslfeat.errors import ExportError, InputError, ParityError
from sslfeat.export import compare as comparing
from sslfeat.export import convert as module
from sslfeat.export.convert import ExportRequest, convert
from sslfeat.export.gates import Agreement, Drop, drop_of, judge, likeness, spread
from sslfeat.export.runner import measure
from sslfeat.export.sources import Origin
from sslfeat.export.targets.base import FP16, FP32, INT8, Source, Target, TargetCheck
from sslfeat.export.targets.registry import TARGETS
from sslfeat.inference.onnx_model import read_encoder_file
from sslfeat.numerics.similarity import cosines
from tests.exported import many, origins

__all__ = ["many", "origins"]


def test_gates_are_what_they_say() -> None:
    like = Agreement(images=60, cosine=0.99995, max_abs_diff=2e-3, scale=10, overlap=0.94)
    assert [(v.figure, v.passed) for v in judge(FP32, like, None)] == [("cosine", False), ("max abs diff", False)]
    found = judge(INT8, like, Drop(knn=0.5, linear=1.5, test=100))
    assert {v.figure: v.passed for v in found} == {
        "cosine": True, "overlap@10": False, "kNN drop": True, "linear probe drop": False,
    }  # fmt: skip
    few = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    with pytest.raises(ExportError, match="6 images are too few for a comparison: 8 different readable images are needed"):
        likeness(few, [few])
    with pytest.raises(ExportError, match="give 63 or more"):
        judge(INT8, dataclasses.replace(like, images=49), None)


def test_bounds_are_judged_not_what_was_found() -> None:
    """Each figure that was found passes, and each bound on unseen images does not: the bound decides."""
    like = Agreement(60, 0.9995, 1e-9, 1, 0.96, share=0.95, cosine_bound=0.9989, overlap_bound=0.949)
    drop = Drop(0.5, 0.5, 100, (-0.6, 1.6), (-0.6, 1.6))
    assert [verdict.passed for verdict in judge(INT8, like, drop)] == [False] * 4
    like = dataclasses.replace(like, cosine=0.998, cosine_bound=0.9991, overlap_bound=0.951)
    drop = Drop(1.5, 1.5, 100, (-9, 0.9), (-9, 0.9))
    assert [verdict.passed for verdict in judge(INT8, like, drop)] == [True] * 4
    told = str(judge(INT8, like, None)[0])
    assert told == "cosine of 95 % of images 0.9991 (within 0.999)"


def test_likeness_is_the_worst_batch_and_its_bounds_hold_for_others() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.normal(size=(400, 12)).astype(np.float32)
    near = wanted + rng.normal(scale=0.02, size=wanted.shape).astype(np.float32)
    one = near.copy()
    one[7] = -wanted[7]  # of 400, one may be off: it is one of less than a hundredth
    like = likeness(wanted, [wanted, one])
    assert like.cosine == pytest.approx(-1)
    assert like.share == 0.99
    assert like.cosine_bound == like.cosine  # of 400 the least bounds 99 %: the second would for 473 or more
    more = np.concatenate([wanted, wanted[:100]]), np.concatenate([one, near[:100]])
    assert 0.99 < float(likeness(more[0], [more[1]]).cosine_bound or 0) < 1
    assert like.overlap_bound is not None
    assert 0.5 < like.overlap_bound < like.overlap < 1
    same = likeness(wanted, [wanted])
    assert same.cosine == pytest.approx(1)
    assert same.overlap == 1
    assert 0.99 < (same.overlap_bound or 0) < 1  # nothing differed, which says nothing of all others


def test_a_cosine_near_1_is_not_enough_where_all_images_have_it() -> None:
    rng = np.random.default_rng(0)
    rows = (1 + 1e-4 * rng.normal(size=(100, 64))).astype(np.float32)
    pairs = [cosines(rows[a : a + 1], rows[b : b + 1])[0] for a in range(100) for b in range(a)]
    assert spread(rows) == pytest.approx(1 - np.mean(pairs), rel=1e-3)
    like = likeness(rows, [rows.astype(np.float16).astype(np.float32)])
    assert like.cosine > 0.99999
    assert like.overlap < 0.9
    (verdict,) = judge(FP16, like, None)
    assert not verdict.passed
    assert "two of which have 0.99999999" in str(verdict)
    apart = rng.normal(size=(100, 64)).astype(np.float32)
    assert all(each.passed for each in judge(FP16, likeness(apart, [apart.astype(np.float16).astype(np.float32)]), None))


def test_drops_are_of_every_labeled_image_with_their_intervals() -> None:
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(3, 8))
    y = np.arange(240) % 3
    good = (centers[y] + rng.normal(scale=0.3, size=(240, 8))).astype(np.float32)
    spoiled = good.copy()
    spoiled[::4] = good[np.roll(np.arange(240), 1)[::4]]  # a quarter look like another class
    found = drop_of(good, spoiled, [f"class {n}" for n in y])
    assert found.test == 240
    assert 15 < found.linear < 35
    assert found.linear_interval is not None
    assert found.linear_interval[0] < found.linear < found.linear_interval[1]
    same = drop_of(good, good, [f"class {n}" for n in y])
    assert (same.knn, same.linear) == (0, 0)
    assert same.knn_interval == same.linear_interval
    assert (same.knn_interval or (0, 0))[1] == pytest.approx(300 / 240, rel=0.2)  # the rule of three
    with pytest.raises(ExportError, match="two classes"):
        drop_of(good[:4], good[:4], ["a", "a", "a", "b"])


def test_no_image_that_ranges_are_taken_from_judges(
    origins: Callable[[str], Origin], many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not under another name either, and not among the labeled ones."""
    doubled = tmp_path / "doubled"
    shutil.copytree(many, doubled / "a")
    shutil.copytree(many, doubled / "b")
    seen: list[npt.NDArray[np.uint8]] = []
    judged: list[npt.NDArray[np.uint8]] = []

    def make(source: Source, out: Path) -> None:
        seen.append(source.seen)
        out.write_bytes(source.file.data)

    def watched(made: Path, reference: Path, pixels: npt.NDArray[np.uint8], **options: Any) -> Any:
        judged.append(pixels)
        return measure(made, reference, pixels, **options)

    monkeypatch.setattr(module, "find_target", lambda name: Target("copy", "for a test", INT8, make, "onnx"))
    monkeypatch.setattr(module, "measure", watched)
    with pytest.raises(ParityError, match="128 labeled images are too few to show a loss below one point"):
        convert(origins("resnet"), ExportRequest("copy", tmp_path / "out.onnx", [str(doubled)], labeled=str(doubled)))
    known = {image.tobytes() for image in seen[0]}
    assert len(seen[0]) == len(known) == 16
    assert [len(pixels) for pixels in judged] == [64, 128]  # of 80 and 160
    for pixels in judged:
        assert not known & {image.tobytes() for image in pixels}


def test_what_others_will_see_is_drawn_unless_it_is_given(tiny: Path, many: Path, tmp_path: Path) -> None:
    """Training images are somebody's: a page does not show them by itself."""
    shown: list[list[bytes]] = []

    def make(source: Source, out: Path) -> None:
        shown.append(list(source.shown))
        (out / "index.html").write_text("a page")

    def check(source: Source, out: Path, image_folder: Sequence[bytes]) -> TargetCheck:
        pixels, _ = decode_all(image_folder, source.file.card.preprocess)
        return TargetCheck(Encoder(source.file, provider="cpu").run(pixels), "looked at")

    page = dataclasses.replace(TARGETS["web"], make=make, check=check)
    trained = Origin(read_encoder_file(tiny), None, (str(many),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "find_target", lambda name: page)
        drawn = convert(trained, ExportRequest("web", tmp_path / "drawn"))
        given = convert(trained, ExportRequest("web", tmp_path / "given", [str(many)]))
    assert not [name for name in shown[0] if str(many).encode() in name]
    assert all(str(many).encode() in name for name in shown[1])
    assert (drawn.images, drawn.remark) == ("drawn by sslfeat", "looked at")
    assert given.remark == "looked at; it contains thumbnails of 24 of your images"


def test_images_to_compare_on_are_drawn_from_all(tiny: Path, many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "IMAGES", 12)
    sources = [item.path for item in find_inputs([str(many)], "none")]
    found = comparing.compare(str(tiny), str(tiny), sources, show=12, laps=1)
    places = sorted(sources.index(worst.path.encode()) for worst in found.worst)
    assert (found.images, len(places)) == (12, 12)
    assert places[0] < 20 < 60 < places[-1]
    assert found.share == pytest.approx(0.779)  # 0.05 ** (1 / 12)
    for wrong in ({"show": -1}, {"threads": 0}, {"laps": 0}):
        with pytest.raises(InputError):
            comparing.compare(str(tiny), str(tiny), sources, **wrong)


def test_a_panel_is_a_random_draw_of_what_can_be_read(many: Path, tmp_path: Path) -> None:
    sources = [item.path for item in find_inputs([str(many)], "none")]
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    panel = draw_panel([*sources, str(tmp_path / "broken.jpg").encode()], Preprocess(8, 8))
    assert (len(panel.judged), len(panel.names), len(panel.seen)) == (64, 64, 16)
    again, _ = decode_all(panel.names, Preprocess(8, 8))
    np.testing.assert_array_equal(again, panel.judged)
    places = [sources.index(name) for name in panel.names]
    assert places != sorted(places)
    assert len({place // 8 for place in places}) == 10  # from everywhere
    monkey = draw_panel(sources[:3], Preprocess(8, 8))
    assert (len(monkey.judged), len(monkey.seen)) == (3, 0)
