"""Images per second in training compared with lightly: same images, same backbone, same batch size.

    python benchmarks/train_speed.py DATA WORK [--steps 100] [--laps 3] [--image-size 32] [--precision 32-true]

DATA is a folder of class folders. SimCLR: SimCLRTransform, SimCLRProjectionHead and NTXentLoss of lightly with its LightlyDataset
and a DataLoader, as in its documentation. Rotation, which lightly does not provide: the same loader with torchvision crops, and
four rotations of a batch. lightly uses the fastest number of workers. Both use their default precision: sslfeat bfloat16 on
machines where it is faster, the plain loop with lightly float32. Laps alternate; medians are compared. The time in which sslfeat
reads all images before the first step is reported separately, and its ten evaluations (ten per run of any length) are excluded.
Needs: pip install lightly. Writes WORK/train_speed.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sslfeat.models.backbones.registry import build_backbone
from sslfeat.models.engine.config import CONFIG_NAME, TrainConfig, load_config
from sslfeat.models.engine.trainer import Reporter, TrainProgress, train
from sslfeat.system.machine import save_measured

BATCH = {"simclr": 256, "rotation": 64}
WARM_UP = 20  # warm-up steps


def ours(method: str, options: argparse.Namespace) -> tuple[float, float]:
    """Images per second in training, and seconds until the first step, with the function used by ``sslfeat train``."""
    rates: list[float] = []
    began, first = time.monotonic(), [0.0]

    def training(progress: TrainProgress) -> None:
        if progress.step > WARM_UP:
            rates.append(progress.images_per_second)

    def look(step: int, figures: dict[str, float]) -> None:
        if step == 0:
            first[0] = time.monotonic() - began

    run = options.work / f"speed-{method}"
    shutil.rmtree(run, ignore_errors=True)
    config = TrainConfig(
        method, (str(options.data),), options.backbone, options.image_size, BATCH[method],
        steps=WARM_UP + options.steps, precision=options.precision,
    )  # fmt: skip
    train(config, run, reporter=Reporter(training=training, look=look))
    return statistics.median(rates), first[0]


def lightly_loader(method: str, workers: int, options: argparse.Namespace) -> Any:
    from lightly.data import LightlyDataset
    from lightly.transforms import SimCLRTransform
    from torchvision import transforms

    size = options.image_size
    if method == "simclr":
        chosen: Any = SimCLRTransform(input_size=size, cj_strength=0.5, gaussian_blur=0.0, min_scale=0.2)
    else:
        chosen = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, (0.5, 1.0)),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )
    return torch.utils.data.DataLoader(
        LightlyDataset(str(options.data), transform=chosen), BATCH[method], shuffle=True, drop_last=True,
        num_workers=workers, persistent_workers=False,
    )  # fmt: skip


def lightly_step(method: str, options: argparse.Namespace) -> tuple[list[nn.Parameter], Callable[[Any], Tensor]]:
    """Parameters, and a function from a batch of the loader to a loss."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules.heads import SimCLRProjectionHead

    backbone = build_backbone(options.backbone, options.image_size)
    dim = backbone.dim
    if method == "simclr":
        head: nn.Module = SimCLRProjectionHead(dim, dim, 128)
        criterion = NTXentLoss(temperature=0.2)

        def simclr(batch: Any) -> Tensor:
            first, second = batch[0]
            loss: Tensor = criterion(head(backbone(first)), head(backbone(second)))
            return loss

        return [*backbone.parameters(), *head.parameters()], simclr
    turns = nn.Linear(dim, 4)

    def rotation(batch: Any) -> Tensor:
        images = torch.cat([torch.rot90(batch[0], k, (2, 3)) for k in range(4)])
        return functional.cross_entropy(turns(backbone(images)), torch.arange(4).repeat_interleave(len(batch[0])))

    return [*backbone.parameters(), *turns.parameters()], rotation


def lightly_rate(method: str, workers: int, steps: int, options: argparse.Namespace) -> float:
    """Images per second of a plain training loop with the components of lightly."""
    parameters, loss_of = lightly_step(method, options)
    optimizer = torch.optim.AdamW(parameters, 1e-3)
    warm_up, done, since = min(WARM_UP, steps), 0, 0.0
    while True:
        for batch in lightly_loader(method, workers, options):
            if done == warm_up:
                since = time.monotonic()
            if done == warm_up + steps:
                return BATCH[method] * steps / (time.monotonic() - since)
            loss = loss_of(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1


def compare(method: str, options: argparse.Namespace) -> dict[str, Any]:
    tried = {workers: lightly_rate(method, workers, max(10, options.steps // 3), options) for workers in (0, 1, 2)}
    workers = max(tried, key=lambda count: tried[count])
    a, b, reading = [], [], 0.0
    for _ in range(options.laps):
        rate, reading = ours(method, options)
        a.append(rate)
        b.append(lightly_rate(method, workers, options.steps, options))
    result = {
        "sslfeat_images_per_second": statistics.median(a),
        "lightly_images_per_second": statistics.median(b),
        "ratio": statistics.median(a) / statistics.median(b),
        "laps": {"sslfeat": a, "lightly": b},
        "sslfeat_precision": load_config(options.work / f"speed-{method}" / CONFIG_NAME).precision,
        "lightly_precision": "32-true",
        "lightly_workers": workers,
        "sslfeat_seconds_before_the_first_step": reading,
    }
    print(f"{method}: {result['ratio']:.2f} x images/s of lightly {json.dumps(result)}", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--laps", type=int, default=3)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--backbone", default="resnet10")
    parser.add_argument("--precision", help="of sslfeat; default: automatic")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    results = {method: compare(method, options) for method in BATCH}
    save_measured(options.work / "train_speed.json", results)


if __name__ == "__main__":
    main()
