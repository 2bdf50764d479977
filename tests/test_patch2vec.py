"""patch2vec: neighbors, negatives, subsampling, the loss, and words in an exported graph."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from sslfeat.errors import UsageError
from sslfeat.models.engine.data import Images
from sslfeat.models.methods.patch2vec import Patch2Vec, neighbors
from sslfeat.models.ops.codebook import WordVectors


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int = 4, size: int = 32) -> Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator(9))


def made(**options: Any) -> Patch2Vec:
    torch.manual_seed(0)
    config = Patch2Vec.Config(**{"words": 32, "dim": 8, **options})
    method = Patch2Vec(Patch2Vec.build_encoder("words", 32, config), config)
    method.prepare(Images(batch(20).permute(0, 2, 3, 1).contiguous().numpy(), (), ()))
    return method


def test_neighbors_are_all_pairs_that_touch_both_ways_round() -> None:
    words = torch.arange(24).view(2, 3, 4)
    found = sorted(map(tuple, neighbors(words).tolist()))
    wanted = [
        (int(words[n, y, x]), int(words[n, v, u]))
        for n in range(2)
        for y in range(3)
        for x in range(4)
        for v in range(3)
        for u in range(4)
        if max(abs(y - v), abs(x - u)) == 1
    ]
    assert found == sorted(wanted)


def test_words_side_by_side_share_no_pixel_and_are_those_of_the_codebook() -> None:
    encoder = made().encoder
    images = batch().float() / 255
    words = encoder.words(images, 6)
    assert words.shape == (4, 5, 5)
    patch = images[2, :, 18:24, 6:12].reshape(-1)
    assert int(words[2, 3, 1]) == int(encoder.codebook(patch))


def test_negatives_follow_the_unigram_to_the_power_of_three_quarters() -> None:
    method = made(negatives=20)
    method.frequencies.copy_(torch.arange(1.0, 33) / 528)
    raw = [(k / 528) ** 0.75 for k in range(1, 33)]
    wanted = [value / sum(raw) for value in raw]
    assert method.noise().tolist() == pytest.approx(wanted, rel=1e-5)
    drawn = Counter(int(word) for seed in range(40) for word in method.views(batch(16), generator(seed))[1].flatten())
    total = sum(drawn.values())
    assert total > 100_000
    for word, share in enumerate(wanted):
        assert drawn[word] / total == pytest.approx(share, abs=5 * math.sqrt(share / total))


def test_frequent_words_are_skipped() -> None:
    method = made(subsample=0.5)
    method.frequencies.copy_(torch.tensor([0.5, *[0.5 / 31] * 31]))
    kept = method.kept()
    assert float(kept[0]) == pytest.approx(math.sqrt(0.5 / 32 / 0.5))
    assert float(kept[1]) == pytest.approx(math.sqrt(0.5 / 32 / (0.5 / 31)))
    assert torch.equal(made(subsample=0.0).kept(), torch.ones(32))


def test_the_loss_pair_by_pair() -> None:
    method = made()
    torch.nn.init.normal_(method.contexts)
    pairs, negatives = torch.tensor([[0, 3], [5, 5], [9, 2]]), torch.tensor([[1, 2], [3, 4], [5, 6]])
    loss, figures = method.loss((pairs, negatives))
    total = 0.0
    with torch.no_grad():
        for (center, context), drawn in zip(pairs.tolist(), negatives.tolist(), strict=True):
            v = method.encoder.vectors[center].double()
            total -= math.log(1 / (1 + math.exp(-float(v @ method.contexts[context].double()))))
            for word in drawn:
                total -= math.log(1 / (1 + math.exp(float(v @ method.contexts[word].double()))))
    assert float(loss.detach()) == pytest.approx(total / 3, rel=1e-5)
    assert float(figures["used"]) == pytest.approx(5 / 32)


def test_vectors_that_say_nothing_have_the_trivial_loss() -> None:
    method = made()
    loss, figures = method(batch(), generator())
    assert float(loss.detach()) == pytest.approx(float(figures["trivial"]), rel=1e-4)
    assert float(figures["trivial"]) == pytest.approx(11 * math.log(2))


def test_an_image_is_the_mean_of_its_words() -> None:
    encoder = made().encoder
    images = batch().float() / 255
    with torch.no_grad():
        features = encoder(images)
        patches = [images[1, :, y : y + 6, x : x + 6].reshape(-1) for y in range(0, 27, 2) for x in range(0, 27, 2)]
        mean = torch.stack([encoder.vectors[encoder.codebook(patch)] for patch in patches]).mean(0)
    torch.testing.assert_close(features[1], mean, atol=1e-6, rtol=1e-4)
    assert isinstance(encoder, WordVectors)
    assert encoder.layers == ("words",)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(UsageError, match="omit --backbone"):
        Patch2Vec.build_encoder("resnet10", 32, Patch2Vec.Config())
    with pytest.raises(UsageError, match="too small"):
        Patch2Vec.build_encoder("words", 12, Patch2Vec.Config())
    method = made()
    assert "fewer words" in str(method.complaint({"used": 0.01}))
