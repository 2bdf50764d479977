"""Parity check: the exported file gives the features of the torch encoder, from image file to embedding.

The two sides share only the image: torch is fed by torchvision's resize and crop of the whole image, onnxruntime by
sslfeat's pipeline.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageColor, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from sslfeat.data.transforms import BORDER, SQUASH, Preprocess
from sslfeat.data.upright import to_rgb
from sslfeat.errors import ExportError, ParityError
from sslfeat.inference.encoder import Encoder
from sslfeat.inference.model_card import Parity
from sslfeat.inference.onnx_model import EncoderFile
from sslfeat.numerics.similarity import cosines, neighbor_overlap

BATCH_SIZES = (1, 3, 8)
MAX_ABS_DIFF = 1e-4  # relative to the largest component
MIN_COSINE = 0.99999
IMAGES = 64


def check_parity(encoder: torch.nn.Module, file: EncoderFile, images: Sequence[bytes], source: str) -> Parity:
    """Compare ``file`` in onnxruntime with ``encoder`` in torch on image files, at batch sizes 1, 3 and 8.

    Both run on the CPU with one thread, so that the figures are reproducible. Raises ParityError naming the figure beyond
    its tolerance, ExportError if there are fewer images than the largest batch.
    """
    if len(images) < max(BATCH_SIZES):
        raise ExportError(f"{len(images)} readable images: the parity check needs at least {max(BATCH_SIZES)}")
    reference = _torch_embeddings(encoder, images, file.card.preprocess)
    runtime = Encoder(file, provider="cpu", threads=1)
    found = [np.stack(list(runtime.embed([os.fsdecode(path) for path in images], batch_size=size))) for size in BATCH_SIZES]
    if not all(np.isfinite(values).all() for values in (reference, *found)):
        raise ParityError("some embeddings are not finite: the training has diverged")
    worst = max(found, key=lambda values: float(np.abs(values - reference).max()))
    parity = Parity(
        images=len(images),
        source=source,
        batch_sizes=BATCH_SIZES,
        max_abs_diff=_rounded(float(np.abs(worst - reference).max())),
        scale=_rounded(float(np.abs(reference).max())),
        min_cosine=round(min(float(cosines(values, reference).min()) for values in found), 9),
        neighbor_overlap=round(min(neighbor_overlap(values, reference) for values in found), 6),
    )
    _judge(parity)
    return parity


def _judge(parity: Parity) -> None:
    limit = MAX_ABS_DIFF * parity.scale
    if parity.max_abs_diff > limit:
        raise ParityError(f"max abs diff {parity.max_abs_diff:.3g} exceeds {limit:.3g}: nothing was written")
    if parity.min_cosine < MIN_COSINE:
        raise ParityError(f"cosine {parity.min_cosine:.9f} is below {MIN_COSINE}: nothing was written")


def reference_pixels(path: bytes | str | Path, preprocess: Preprocess) -> npt.NDArray[np.uint8]:
    """Reference preprocessing to uint8 (S, S, 3): resize the whole upright image, then crop or pad it."""
    with Image.open(path.decode("utf-8", "surrogateescape") if isinstance(path, bytes) else path) as image:
        upright = to_rgb(ImageOps.exif_transpose(image))
    resize, mode = preprocess.resize, InterpolationMode(preprocess.filter)
    sides = [resize, resize] if preprocess.crop == SQUASH else [resize]
    if preprocess.crop == SQUASH:
        upright = transforms.resize(upright, [upright.height, resize], mode, antialias=True)
    if preprocess.crop == BORDER:
        scale = max(upright.size) / resize
        sides = [max(1, round(upright.height / scale)), max(1, round(upright.width / scale))]
    resized = transforms.resize(upright, sides, mode, antialias=True)
    if preprocess.crop == BORDER:
        missing = [max(preprocess.size - side, 0) for side in sides]
        around = [missing[1] // 2, missing[0] // 2, (missing[1] + 1) // 2, (missing[0] + 1) // 2]
        resized = transforms.pad(resized, around, fill=ImageColor.getrgb(preprocess.fill))
    return np.array(transforms.center_crop(resized, preprocess.size))


def _torch_embeddings(encoder: torch.nn.Module, images: Sequence[bytes], preprocess: Preprocess) -> npt.NDArray[np.float32]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            rows = [encoder(torch.from_numpy(reference_pixels(path, preprocess))[None])[0] for path in images]
        embeddings: npt.NDArray[np.float32] = torch.stack(rows).numpy()
        return embeddings
    finally:
        torch.set_num_threads(threads)


def _rounded(value: float) -> float:
    """Round to three significant digits."""
    return float(f"{value:.3g}")
