"""Previews of training: every row unchanged, under a line that says what it shows."""

from __future__ import annotations

import torch

from sslfeat.models.ops.previews import captioned, tile


def test_rows_follow_their_legend_unchanged() -> None:
    rows = {text: torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(place)) for place, text in enumerate("ab")}
    image = tile(rows)
    assert image.shape[2] == 4 * 32
    line = (image.shape[1] - 2 * 32) // 2
    assert 8 <= line <= 30
    for place, row in enumerate(rows.values()):
        top = place * (line + 32)
        assert image[:, top : top + line].amin() < 0.3 < image[:, top : top + line].mean()  # some ink on white paper
        torch.testing.assert_close(image[:, top + line : top + line + 32], torch.cat(list(row), 2))
    assert not torch.equal(image[:, :line], image[:, line + 32 : 2 * line + 32])


def test_a_legend_is_not_cut_by_narrow_images() -> None:
    text = "what the encoder sees of it, which takes more room than the image"
    image = captioned({text: torch.zeros(3, 8, 8)})
    assert image.shape[2] > 200
    assert image[:, -8:, :8].amax() == 0
    assert image[:, -8:, 8:].amin() == 1
    assert image[:, :-8, image.shape[2] // 2 :].amin() < 0.3  # the text goes on
