"""One of several processes that train together, for ``test_ranks``: python -m tests.on_ranks RANK WORLD IMAGES OUT."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from sslfeat.data.dataset import find_inputs
from sslfeat.models.engine import distributed
from sslfeat.models.engine.config import TrainConfig
from sslfeat.models.engine.data import Images, load_images, to_batch
from sslfeat.models.engine.frozen import build_method
from sslfeat.models.method import VIT_BACKBONES, Method, Recipe, find_method, method_names

BATCH = 16
BLOCKS = {"simclr": 2, "barlow": 2, "rotation": 4}  # views that are blocks of N, image by image in each
OPTIONS = {  # the length of a prefix is drawn for a whole batch; small codebooks are soon found
    "autoregressive": {"prefix": "false"},
    "beit": {"words": "16"},
    "patch2vec": {"words": "16"},
}
CPU = torch.device("cpu")


def made(name: str, drawn: Images, seed: int = 0) -> Method:
    usual = find_method(name).recipe.backbones
    backbone = {VIT_BACKBONES: "vit_tiny", Recipe().backbones: "resnet10_w4"}.get(usual, usual[0])
    method = build_method(TrainConfig(name, (), backbone, 32, seed=seed, options=OPTIONS.get(name, {})))
    method.prepare(drawn)
    list(method.on_cycle(drawn, torch.Generator().manual_seed(seed)))
    for parameter in method.parameters():  # patch2vec begins at zero, where few gradients are left to compare
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    return method


def views_of(method: Method, drawn: Images, rank: int, world: int) -> Any:
    """What rank ``rank`` of ``world`` sees of a batch."""
    numbers = np.arange(BATCH)[rank::world]
    method.numbers = torch.from_numpy(numbers)
    return method.views(to_batch(drawn.pixels, numbers, CPU), torch.Generator().manual_seed(rank))


def joined(views: list[Any], blocks: int) -> Any:
    """The views of all ranks as those of one process."""
    first = views[0]
    if isinstance(first, Tensor):
        return torch.cat([part for block in zip(*(v.chunk(blocks) for v in views), strict=True) for part in block])
    if isinstance(first, tuple):
        return tuple(joined(list(parts), blocks) for parts in zip(*views, strict=True))
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        fields = {f.name: joined([getattr(v, f.name) for v in views], blocks) for f in dataclasses.fields(first)}
        return dataclasses.replace(first, **fields)
    assert all(view == first for view in views)
    return first


def outcome(method: Method, views: Any) -> dict[str, Tensor]:
    """Loss, gradient, figures and running statistics after one step's forward and backward."""
    loss, figures = method.loss(views)
    torch.autograd.backward(loss)
    told: dict[str, float] = {key: float(figures[key]) for key in figures if key in ("accuracy", "chance", "error")}
    values = distributed.mean_figures({"loss": float(loss.detach()), **told}, CPU)
    gradient = torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])
    if distributed.world_size() > 1:  # as DistributedDataParallel does
        dist.all_reduce(gradient)
        gradient /= distributed.world_size()
    running = [buffer.flatten() for name, buffer in method.named_buffers() if "running" in name]
    kept = {"gradient": gradient, "running": torch.cat([torch.zeros(0), *running])}
    return kept | {f"figure {key}": torch.tensor(value) for key, value in values.items()}


def main(rank: int, world: int, image_folder: str, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}.store", rank=rank, world_size=world)
    drawn = load_images(find_inputs([image_folder]), 32, out.parent)
    kept: dict[str, Tensor] = {}
    for name in method_names():
        method = made(name, drawn)
        distributed.share_statistics(method, CPU)
        kept |= {f"{name}/{key}": value for key, value in outcome(method, views_of(method, drawn, rank, world)).items()}
    unlike = made("patch2vec", drawn, seed=rank)
    distributed.equalize(unlike)
    kept |= {f"equal/{name}": value.clone().contiguous() for name, value in unlike.state_dict().items()}
    save_file(kept, f"{out}.{rank}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
