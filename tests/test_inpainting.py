"""Inpainting: what is hidden, weighted and counted; the decoder; the adversary."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sslfeat.errors import UsageError
from sslfeat.models.backbones.registry import build_backbone
from sslfeat.models.methods.inpainting import BAND_WEIGHT, Inpainting, center_masks
from sslfeat.models.modules.conv_decoder import ConvDecoder, minimax
from sslfeat.models.ops.optical_flow import blob_masks


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 4, size: int = 32) -> Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator(9))


def method(backbone: str = "resnet10_w8", size: int = 32, **options: object) -> Inpainting:
    torch.manual_seed(0)
    return Inpainting(build_backbone(backbone, size), Inpainting.Config(**options)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_blobs_cover_their_share_to_the_pixel_and_differ(share: float) -> None:
    masks = blob_masks(8, 40, share, generator())
    assert masks.sum((1, 2, 3)).tolist() == [round(share * 1600)] * 8
    assert len({mask.numpy().tobytes() for mask in masks}) == 8
    edges = (masks[..., 1:] != masks[..., :-1]).sum((1, 2, 3))
    assert int(edges.max()) < 40 * 6  # blobs, not noise


def test_the_center_is_half_the_side_with_a_band_that_is_seen_and_dear() -> None:
    hidden, weight = center_masks(128)
    assert int(hidden.sum()) == 56 * 56
    assert int((weight > 0).sum()) == 64 * 64
    assert float(weight[0, 0, 32, 32]) == float(weight[0, 0, 95, 60]) == BAND_WEIGHT
    assert float(weight[0, 0, 36, 36]) == 1
    assert float(weight[0, 0, 31, 32]) == 0


@pytest.mark.parametrize("mask", ["blobs", "center"])
def test_the_loss_pixel_by_pixel_and_what_is_hidden_cannot_be_seen(mask: str) -> None:
    model = method(mask=mask)
    views = model.views(images(), generator())
    with torch.no_grad():
        loss, figures = model.loss(views)
        predicted = model.fill(views).double().numpy()
        poked = functional.pad(views.images, (0, 0)).masked_fill(views.hidden, 3.0)
        again = model.fill(type(views)(poked, views.hidden, views.weight))
    np.testing.assert_array_equal(again.numpy(), predicted.astype(np.float32))
    truth, total, weights, hidden = views.images.double().numpy(), 0.0, 0.0, []
    for n, y, x in np.ndindex(4, 32, 32):
        squared = float(((predicted[n, :, y, x] - truth[n, :, y, x]) ** 2).mean())
        total += squared * float(views.weight[n, 0, y, x])
        weights += float(views.weight[n, 0, y, x])
        if views.hidden[n, 0, y, x]:
            hidden.append((squared, float((truth[n, :, y, x] ** 2).mean())))
    assert float(loss) == pytest.approx(total / weights, rel=1e-5)
    error, trivial = np.mean(hidden, axis=0)
    assert float(figures["error"]) == pytest.approx(error, rel=1e-5)
    assert float(figures["trivial"]) == pytest.approx(trivial, rel=1e-5)


def test_the_adversary_learns_to_tell_and_the_predictor_to_fool() -> None:
    """One backward pass pulls them apart: the sign of the predictor's gradient is turned round."""
    adversary = nn.Sequential(nn.Flatten(), nn.Linear(12, 1))
    real, where = torch.randn(5, 3, 2, 2, generator=generator()), torch.ones(5, 1, 2, 2, dtype=torch.bool)
    predicted = torch.randn(5, 3, 2, 2, generator=generator(1)).requires_grad_()
    loss, fooled = minimax(adversary, real, predicted, where)
    genuine, fake = adversary(real).double(), adversary(predicted).double()
    naive = -(genuine.sigmoid().log().mean() + (1 - fake.sigmoid()).log().mean())
    assert float(loss.detach()) == pytest.approx(float(naive.detach()), rel=1e-5)
    assert float(fooled) == pytest.approx(float((fake > 0).double().mean()))
    (to_fool,) = torch.autograd.grad(loss, predicted)
    (to_tell,) = torch.autograd.grad(functional.softplus(adversary(predicted)).mean(), predicted)
    torch.testing.assert_close(to_fool, -to_tell)


def test_the_adversary_trains_along_and_says_when_it_wins() -> None:
    model = method(adversarial=True).train()
    loss, figures = model(images(), generator())
    loss.backward()
    assert model.adversary is not None
    assert all(parameter.grad is not None for parameter in model.adversary.parameters())
    assert "no useful gradient" in str(model.complaint({"fooled": 0.0}))
    assert model.complaint({"fooled": 0.3}) is None
    assert 0 <= float(figures["fooled"]) <= 1


@pytest.mark.parametrize("name", ["resnet10_w8", "vit_tiny"])
@pytest.mark.parametrize(("size", "wanted"), [(32, 32), (48, 24), (64, 16), (96, 96)])
def test_the_decoder_gives_the_size_asked_for(name: str, size: int, wanted: int) -> None:
    encoder = build_backbone(name, size).eval()
    decoder = ConvDecoder(encoder, 5, wanted).eval()
    with torch.no_grad():
        assert decoder(encoder.maps(torch.rand(2, 3, size, size))).shape == (2, 5, wanted, wanted)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(UsageError, match="blobs or center"):
        method(mask="square")
    with pytest.raises(UsageError, match="between 0 and 1"):
        method(share=1.0)
