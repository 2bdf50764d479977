"""Processes that train together, for ``test_ranks``: python -m tests.on_ranks IMAGES OUT, which forks 2 and then 4 of them."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from sslfeat.data.dataset import find_inputs
from sslfeat.models.engine import distributed, features
from sslfeat.models.engine.config import TrainConfig
from sslfeat.models.engine.data import Images, load_images, to_batch
from sslfeat.models.engine.frozen import build_method
from sslfeat.models.method import VIT_BACKBONES, Method, Recipe, find_method, method_names
from sslfeat.models.multi_view import MultiView, Views
from tests.conftest import write_tiny
from tests.processes import together

BATCH = 16
BY_PROCESS = "simclr that keeps color"  # which images keep theirs follows from their places among those of a process
BLOCKS = {"rotation": 4}  # views that are blocks of N, image by image in each; those of MultiView are counted
OPTIONS = {  # the length of a prefix is drawn for a whole batch; small codebooks are soon found, small queues full
    "autoregressive": {"prefix": "false"},
    "beit": {"words": "16"},
    "distill": {"others": "12"},
    "moco": {"queue": "12"},
    "patch2vec": {"words": "16"},
    "swav": {"queue": "12", "prototypes": "24"},
}
CASES = {name: (name, OPTIONS.get(name, {})) for name in method_names()} | {
    BY_PROCESS: ("simclr", {"keep_color": "0.5", "local_views": "1"}),
    "decoupled simclr of three views": ("simclr", {"loss": "dcl", "views": "3"}),
    "moco without a queue": ("moco", {"queue": "0", "local_views": "1"}),
}
CPU = torch.device("cpu")


def made(case: str, drawn: Images, seed: int = 0) -> Method:
    name, options = CASES[case]
    usual = find_method(name).recipe.backbones
    narrow = "resnet10_w16" if name == "context" else "resnet10_w8"  # its maps of one pixel make rounding loud in fewer channels
    backbone = {VIT_BACKBONES: "vit_tiny", Recipe().backbones: narrow}.get(usual, usual[0])
    if name == "distill":
        options = {**options, "teacher": str(teacher(drawn))}
    method = build_method(TrainConfig(name, (), backbone, 32, seed=seed, options=options))
    method.share = 0.5  # prototypes rest at first
    method.prepare(drawn)
    list(method.on_cycle(drawn, torch.Generator().manual_seed(seed)))
    for parameter in method.parameters():  # patch2vec begins at zero, where few gradients are left to compare
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    return method


def teacher(drawn: Images) -> Path:
    """An encoder file of this process."""
    assert drawn.folder is not None
    folder = drawn.folder / f"process-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    return write_tiny(folder / "tiny.onnx")


def views_of(method: Method, drawn: Images, rank: int, world: int) -> Any:
    """What rank ``rank`` of ``world`` sees of a batch."""
    numbers = np.arange(BATCH)[rank::world]
    method.numbers = torch.from_numpy(numbers)
    return method.views(to_batch(drawn.pixels, numbers, CPU), torch.Generator().manual_seed(rank))


def views_of_all(method: Method, case: str, drawn: Images, world: int) -> Any:
    """What ``world`` ranks see of a batch, as one process sees it."""
    views = [views_of(method, drawn, rank, world) for rank in range(world)]
    method.numbers = torch.arange(BATCH)
    return joined(views, BLOCKS.get(case, 1), case != BY_PROCESS)


def joined(views: list[Any], blocks: int, turns: bool) -> Any:
    """The views of all ranks as those of one process, in the order of the batch (``turns``) or of ranks; of those that are
    none, none."""
    first = views[0]
    if isinstance(first, Views):
        fields = {f.name: [getattr(v, f.name) for v in views] for f in dataclasses.fields(first)}
        each = BATCH // len(views)
        return Views(**{name: joined(parts, len(_rows(parts[0])) // each, turns) for name, parts in fields.items()})
    if isinstance(first, Tensor):
        if not turns or len({len(view) for view in views}) > 1:  # or not of images
            return torch.cat([part for block in zip(*(v.chunk(blocks) for v in views), strict=True) for part in block])
        return torch.cat([torch.stack(block, 1).flatten(0, 1) for block in zip(*(v.chunk(blocks) for v in views), strict=True)])
    if isinstance(first, tuple):
        return tuple(joined(list(parts), blocks, turns) for parts in zip(*views, strict=True))
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        fields = {f.name: joined([getattr(v, f.name) for v in views], blocks, turns) for f in dataclasses.fields(first)}
        return dataclasses.replace(first, **fields)
    assert all(view == first for view in views)
    return first


def _rows(part: Tensor | None) -> Tensor | tuple[()]:
    return () if part is None else part


def outcome(method: Method, views: Any, seed: int = 0) -> dict[str, Tensor]:
    """Loss, gradient, figures and running statistics after one step's forward and backward.

    Queues and centers are filled by a step before it; both draw from the same ``seed``.
    """
    if isinstance(method, MultiView):
        torch.manual_seed(seed)
        method.loss(views)
    torch.manual_seed(seed)
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


def encoded(drawn: Images) -> tuple[Tensor, int]:
    """Features of several batches of images that come again, and how many were computed here."""
    method = made("rotation", drawn)
    numbers = np.arange(5 * features.BATCH - 7) % len(drawn.pixels)
    own: list[int] = []
    method.encoder.register_forward_hook(lambda module, given, rows: own.append(len(rows)))
    return torch.from_numpy(features.features_together(method, drawn.pixels, numbers, CPU)), sum(own)


def run(rank: int, world: int, image_folder: str, folder: Path) -> None:
    """What rank ``rank`` of ``world`` finds, in a file ``WORLD.RANK``."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/{world}.store", rank=rank, world_size=world)
    drawn = load_images(find_inputs([image_folder]), 32, folder)
    kept: dict[str, Tensor] = {}
    for case in CASES:
        method = made(case, drawn)
        distributed.share_statistics(method, CPU)
        kept |= {f"{case}/{key}": value for key, value in outcome(method, views_of(method, drawn, rank, world)).items()}
    apart = made("lejepa", drawn)
    distributed.share_statistics(apart, CPU)
    kept["lejepa apart/gradient"] = outcome(apart, views_of(apart, drawn, rank, world), seed=rank)["gradient"]
    unlike = made("patch2vec", drawn, seed=rank)
    distributed.equalize(unlike)
    kept |= {f"equal/{name}": value.clone().contiguous() for name, value in unlike.state_dict().items()}
    rows, own = encoded(drawn)
    kept |= {"features/rows": rows, "features/own": torch.tensor(own)}
    save_file(kept, folder / f"{world}.{rank}")
    dist.destroy_process_group()


if __name__ == "__main__":
    for world in (2, 4):
        together(world, run, sys.argv[1], Path(sys.argv[2]))
