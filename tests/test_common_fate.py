"""Common fate: sprites whose flow is exact, flow between frames, kernels and their loss."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from sslfeat.data.dataset import find_inputs
from sslfeat.errors import TrainingError, UsageError
from sslfeat.models.backbones.registry import build_backbone
from sslfeat.models.engine.config import TrainConfig
from sslfeat.models.engine.data import load_images
from sslfeat.models.engine.trainer import train
from sslfeat.models.methods.common_fate import CommonFate
from sslfeat.models.ops.optical_flow import cross_entropy, flow_colors, frame_flow, rbf, sprite_scene, successors


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth(n: int, size: int = 48) -> Tensor:
    noise = torch.rand(n, 3, size // 6, size // 6, generator=generator(3))
    return functional.interpolate(noise, size=(size, size), mode="bicubic", align_corners=False).clamp(0, 1)


def test_the_flow_of_sprites_is_exact() -> None:
    """Fetching each pixel of the first frame from where the flow says it went gives the first frame again."""
    scene = sprite_scene(smooth(6), generator(), sprites=2, speed=0.05, soft=False)
    first, second = scene.frames
    size = first.shape[-1]
    y, x = torch.meshgrid(*2 * [torch.arange(size, dtype=torch.float32)], indexing="ij")
    there = torch.stack([x, y]) + scene.flow
    grid = (2 * there + 1).permute(0, 2, 3, 1) / size - 1
    fetched = functional.grid_sample(second, grid, align_corners=False)
    inside = ((there > 1) & (there < size - 2)).all(1)
    same_layer = torch.stack([_eroded(scene.layer == k) for k in range(3)]).any(0)  # not at outlines, which cover and bare
    error = (fetched - first).abs().mean(1)
    assert float(error[inside & same_layer].median()) < 0.01
    assert float((error[inside & same_layer] < 0.05).float().mean()) > 0.85  # the rest is hidden in the second frame
    still = (second - first).abs().mean(1)
    assert float(still[inside & same_layer].mean()) > 2 * float(error[inside & same_layer].mean())


def _eroded(mask: Tensor) -> Tensor:
    return functional.avg_pool2d(mask.float()[:, None], 5, 1, 2, count_include_pad=False)[:, 0] > 0.999


def test_sprites_cover_a_part_move_on_their_own_and_are_blended() -> None:
    scene = sprite_scene(smooth(8), generator(), sprites=2)
    covered = (scene.layer > 0).float().mean((1, 2))
    assert 0.05 < float(covered.min()) <= float(covered.max()) < 0.7
    for k in (1, 2):
        own = [scene.flow[n][:, scene.layer[n] == k].mean(1) for n in range(8) if (scene.layer[n] == k).any()]
        assert len({tuple(flow.tolist()) for flow in own}) == len(own)
    hard = sprite_scene(smooth(8), generator(), sprites=2, soft=False)
    assert torch.equal(hard.flow, scene.flow)
    assert not torch.equal(hard.frames[0], scene.frames[0])


def test_the_loss_is_the_cross_entropy_of_kernel_columns() -> None:
    wanted, given = torch.randn(2, 4, 4, generator=generator()), torch.randn(2, 4, 4, generator=generator(1))
    total = 0.0
    for w, g in zip(wanted.double().numpy(), given.double().numpy(), strict=True):
        for column in range(4):
            p, q = np.exp(w[:, column]), np.exp(g[:, column])
            total -= float((p / p.sum() * np.log(q / q.sum())).sum())
    assert float(cross_entropy(wanted, given)) == pytest.approx(total / 8, rel=1e-5)
    vectors = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]])
    assert rbf(vectors, 5.0)[0].flatten().tolist() == pytest.approx([0, -0.5, -0.5, 0])


def test_embeddings_are_read_at_their_pixels() -> None:
    torch.manual_seed(0)
    method = CommonFate(build_backbone("resnet10_w8", 32), CommonFate.Config(points=64)).eval()
    images = torch.rand(2, 3, 32, 32, generator=generator())
    points = torch.tensor([[0, 33, 1023], [5, 700, 31]])
    with torch.no_grad():
        together = method.embed(images, points)
        assert together.shape == (2, 3, 16)
        torch.testing.assert_close(together.norm(dim=2), torch.ones(2, 3))
        alone = method.embed(images[1:], points[1:, 1:2])
        torch.testing.assert_close(alone[0, 0], together[1, 1], atol=1e-5, rtol=1e-4)


def test_pixels_are_sampled_without_repeats_and_colors_follow_the_flow() -> None:
    method = CommonFate(build_backbone("resnet10_w8", 32), CommonFate.Config(points=200))
    batch = (smooth(4, 36)[..., :32, :32] * 255).byte()
    _, flow, points = method.views(batch, generator())
    assert all(len(set(row)) == 200 for row in points.tolist())
    assert flow.shape == (4, 2, 32, 32)
    right, left = (
        flow_colors(torch.tensor([[1.0], [0.0]]).view(1, 2, 1, 1)),
        flow_colors(torch.tensor([[-1.0], [0.0]]).view(1, 2, 1, 1)),
    )
    assert float(right[0, 0]) == pytest.approx(1)
    assert float(left[0, 0]) == pytest.approx(0, abs=1e-6)


def test_frames_that_do_not_move_are_complained_about() -> None:
    method = CommonFate(build_backbone("resnet10_w8", 32), CommonFate.Config(points=64))
    _, figures = method.loss((torch.rand(2, 3, 32, 32), torch.zeros(2, 2, 32, 32), torch.arange(64).expand(2, -1)))
    assert "show no motion" in str(method.complaint({name: float(value) for name, value in figures.items()}))


def test_frames_follow_in_the_order_of_their_numbers() -> None:
    paths = [os.fsencode(name) for name in ("a/frame10", "a/frame2", "b/1", "a/frame1", "b/2")]
    assert sorted(successors(paths)) == [(0, 1), (1, 0), (2, 4), (3, 1), (4, 2)]
    with pytest.raises(TrainingError, match="one readable image"):
        successors([*paths, b"c/1"])


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Ten frames of a texture that moves three pixels to the right a frame, and down one."""
    pytest.importorskip("cv2")
    folder = tmp_path / "a film"
    folder.mkdir()
    wide = (smooth(1, 120)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    for k in range(10):
        Image.fromarray(wide[20 - k : 84 - k, 40 - 3 * k : 104 - 3 * k]).save(folder / f"{k}.png")
    return folder


def test_flow_between_frames(film: Path, tmp_path: Path) -> None:
    flow = frame_flow(load_images(find_inputs([film]), 64, tmp_path)).float()
    inner = flow[:9, :, 8:-8, 8:-8].mean((2, 3))
    torch.testing.assert_close(inner, torch.tensor([3.0, 1.0]).expand(9, 2), atol=0.3, rtol=0)
    torch.testing.assert_close(flow[9, :, 8:-8, 8:-8].mean((1, 2)), torch.tensor([-3.0, -1.0]), atol=0.3, rtol=0)


def test_training_on_frames_knows_which_flow_is_whose(film: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        "common-fate", (str(film),), "resnet10_w8", image_size=64, batch_size=4, steps=3, accelerator="cpu",
        options={"source": "frames", "points": "64"},
    )  # fmt: skip
    train(config, tmp_path / "run")
    assert (tmp_path / "run" / "previews" / "step-0000003.png").exists()
    method = CommonFate(build_backbone("resnet10_w8", 64), CommonFate.Config(source="frames", points=64))
    images = load_images(find_inputs([film]), 64, tmp_path)
    method.prepare(images)
    with pytest.raises(TrainingError, match="indices of the frames"):
        method.flow_of(torch.device("cpu"))
    method.numbers = torch.tensor([9, 2])
    assert torch.equal(method.flow_of(torch.device("cpu")), method.flow[[9, 2]].float())


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(UsageError, match="sprites or frames"):
        CommonFate(build_backbone("resnet10_w8", 32), CommonFate.Config(source="film"))
    with pytest.raises(UsageError, match="no layer 'layer9'"):
        CommonFate(build_backbone("resnet10_w8", 32), CommonFate.Config(layer="layer9"))
